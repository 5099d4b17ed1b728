"""Chat templates come out as transformers writes them."""

from datetime import datetime

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from embedspace.space.jinja_template import render_template
from tests.checkpoints import LLAMA3_TEMPLATE

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<a>", "<b>"]}
MESSAGES = [
    {"role": "system", "content": "Be <brief> & \"exact\"."},
    {"role": "user", "content": "  a question\n", "name": "Zoë"},
    {"role": "assistant", "content": "an answer"},
    {"role": "user", "content": "日本語 🎉"},
]  # fmt: skip
TEMPLATES = {
    "llama 3": LLAMA3_TEMPLATE,
    "json that is not HTML": "{% for m in messages %}{{ m | tojson }}\n"
    "{{ m | tojson(indent=2, sort_keys=true) }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.content }}"
    "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}",
    "generation blocks": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{% set x = 1 %}"
    "{{ m.content + eos_token }}{% endgeneration %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}",
    "white space control": "\n    {% for m in messages %}\n  {{- m.content | trim }}\n    {% endfor %}\n"
    " x {#- c -#} \n",
    "the date": "{{ strftime_now('%d %b %Y') }}{{ bos_token }}{% if tools %}tools{% endif %}{{ documents is none }}",
    "namespaces": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}"
    "{% endfor %}{{ ns.n }}{{ additional_special_tokens[1] }}{{ undefined_name }}",
    "generation prompt": "{{ messages[-1]['content'] }}{% if add_generation_prompt %}<assistant>{% endif %}",
}


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_rendered_as_transformers_renders_it(name, prompt):
    ((theirs,), _) = render_jinja_template(
        [MESSAGES], chat_template=TEMPLATES[name], add_generation_prompt=prompt, **TOKENS
    )
    assert (
        render_template(TEMPLATES[name], MESSAGES, TOKENS, prompt=prompt, clock=datetime.now().strftime)
        == theirs
    )


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_from_a_stranger_runs_in_a_sandbox(attack):
    from jinja2.exceptions import SecurityError

    with pytest.raises(SecurityError):
        render_template(attack, MESSAGES, TOKENS, prompt=True, clock=datetime.now().strftime)
