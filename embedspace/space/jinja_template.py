"""Chat templates in Jinja, rendered as transformers does, without the seconds that importing transformers takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox
from jinja2 import nodes
from jinja2.parser import Parser


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's part for training masks; here it only has a scope of its own."""

    tags = {"generation"}  # noqa: RUF012 - an attribute of the base class

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Callable[[], str]) -> str:
        return caller()


def render_template(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, Any],
    *,
    prompt: bool,
    clock: Callable[[str], str],
    variables: Mapping[str, Any] | None = None,
) -> str:
    """A conversation as a chat template writes it.

    Args:
        template: Jinja source from a model's folder; it runs in a sandbox.
        messages: the conversation.
        special_tokens: texts of the special tokens by name, e.g. ``bos_token``.
        prompt: whether to end with the header after which the model answers.
        clock: gives the time in a format of ``strftime``.
        variables: whatever else the template reads, e.g. ``tools``.

    Raises:
        jinja2.exceptions.TemplateError: the template is wrong, or refuses the conversation.
    """
    values = {
        "tools": None,
        "documents": None,
        **special_tokens,
        **(variables or {}),
        "messages": [dict(message) for message in messages],
        "add_generation_prompt": prompt,
        "strftime_now": clock,
    }
    return _compiled(template).render(values)


@lru_cache(maxsize=32)
def variables_read(template: str) -> frozenset[str]:
    """Names that a template reads and does not set itself.

    >>> sorted(variables_read("{% set x = tools %}{{ x }}{{ messages }}"))
    ['messages', 'tools']
    """
    environment = _compiled(template).environment
    return frozenset(
        jinja2.meta.find_undeclared_variables(environment.parse(template)) - environment.globals.keys()
    )


@lru_cache(maxsize=32)
def _compiled(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(template)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which no prompt wants."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)
