"""A recipe is enough to make its prompt again, bit by bit; where it is not, that is said."""

import dataclasses
import json
import re

import pytest
import torch
from hydra.utils import instantiate

from embedspace import EmbeddingSpace, PromptEmbeds, Recipe, StyleVector, compress, interpolate
from embedspace.cli import main
from embedspace.compression import SALIENCE_VERSION
from embedspace.distillation import Optimisation
from embedspace.encoders import SentenceEncoder
from embedspace.engines import Sampling, TransformersEngine
from embedspace.interpolation import blend
from embedspace.metrics import noisy_rows, random_rows, shuffle_rows, zero_padded
from embedspace.runs.cases import Case, prompt_sha256
from embedspace.runs.execution import execute
from embedspace.runs.records import read_records
from embedspace.runs.replayed import replay
from embedspace.runs.replayer import Replayer, shipped_vectors
from embedspace.runs.run import Run
from embedspace.space.shared_prefix import PrefixedPrompts
from tests.checkpoints import make_tiny_checkpoint
from tests.unit.prompt.test_peft import adapter
from tests.unit.test_configs import composed

FORMAL = ["I would be most grateful.", "We regret to inform you.", "Kindly advise — à bientôt."]
CASUAL = ["hey can u help", "sorry lol", "no idea, mate"]
ONCE = Sampling(max_tokens=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), layers=1))


def chat(space, text):
    return space.embed_chat(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}], False
    )


def fitted(space, method="mean_difference"):
    return StyleVector.fit(space, FORMAL, CASUAL, method=method)


def mask_of(prompt):
    return torch.arange(len(prompt)) % 3 == 0


WAYS = {
    "embed": lambda s: s.embed("hello\u2028 wörld"),
    "embed_chat": lambda s: chat(s, "What is it? 🎉"),
    "to": lambda s: s.embed("hello").to(torch.float64),
    "concat": lambda s: PromptEmbeds.concat([s.embed("a"), chat(s, "b")]),
    "only_run": lambda s: chat(s, "words here").only_run(1),
    "first_rows": lambda s: chat(s, "words here").first_rows(3),
    "prefix": lambda s: PrefixedPrompts(s, system="Be kind.", few_shot=[("a", "b")]).prefix,
    "prefixed": lambda s: PrefixedPrompts(s, system="Be kind.", few_shot=[("a", "b")])("c"),
    "style": lambda s: fitted(s).apply(chat(s, "x y"), 0.8),
    "style by pca": lambda s: fitted(s, "pca").apply(s.embed("x y"), -1.5),
    "style by logistic": lambda s: fitted(s, "logistic").apply(s.embed("x y")),
    "style of template rows": lambda s: fitted(s).apply(chat(s, "x"), rows="template"),
    "style of a mask": lambda s: fitted(s).apply(chat(s, "x"), rows=mask_of(chat(s, "x"))),
    "style of prompts": lambda s: StyleVector.fit(
        s, [FORMAL[0], chat(s, FORMAL[1]), s.embed(FORMAL[2])], [s.embed(CASUAL[1]), CASUAL[0], CASUAL[2]], method="pca"
    ).apply(s.embed("x y")),
    "algebra": lambda s: (
        2 * -fitted(s) / 3 + StyleVector.random(s, norm=0.7, seed=3) - fitted(s, "pca")
    ).apply(s.embed("x y z")),
    "interpolate": lambda s: interpolate(
        s.embed("one two three"), s.embed("four"), 0.3, method="slerp", align="dtw", space=s
    ),
    "blend": lambda s: blend(
        [s.embed("one two"), s.embed("three"), s.embed("four five")], [0.5, 0.2, 0.3], match_norm=True, space=s
    ),
    "compress": lambda s: compress(s.embed("one two three four five six"), ratio=2),
    "compress by salience": lambda s: compress(chat(s, "one two three four"), length=12, opening=0.7, space=s),
    "compress a message": lambda s: compress(chat(s, "one two three four"), ratio=2, only=-1, space=s),
    "compress rows by averaging": lambda s: compress(
        chat(s, "one two three four"), ratio=2, only="two three", method="average", space=s
    ),
    "keep": lambda s: compress(
        chat(s, "one two three four five six"), ratio=1.5, keep=["two", re.compile("s[a-z]+")], space=s
    ),
    "compress by floor": lambda s: compress(s.embed("one two three four"), ratio=2, method="floor_average"),
    "merge": lambda s: compress(s.embed("one two three four"), ratio=2, method="merge", space=s),
    "shuffle_rows": lambda s: shuffle_rows(s.embed("one two three four"), 5),
    "random_rows": lambda s: random_rows(s, s.embed("one two three four"), 5),
    "noisy_rows": lambda s: noisy_rows(s, chat(s, "one two three"), 0.5, 5),
    "zero_padded": lambda s: zero_padded(s.embed("one two three four"), chat(s, "five"), 0.3),
}  # fmt: skip


def through_json(recipe):
    return Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))


@pytest.mark.parametrize("way", WAYS)
def test_a_recipe_makes_its_prompt_again(tiny, way):
    made = WAYS[way](tiny)
    again = Replayer(tiny, {}).prompt(through_json(made.recipe))
    assert prompt_sha256(again) == prompt_sha256(made)
    assert torch.equal(again.content, made.content)
    assert again.recipe == made.recipe


@pytest.mark.parametrize("information", ["surprisal", "attention"])
def test_compression_by_a_model_asks_the_same_model_again(tmp_path, information):
    engine = TransformersEngine(make_tiny_checkpoint(tmp_path, layers=1))
    made = compress(
        engine.space.embed("one two three four five"), ratio=2, engine=engine, information=information
    )
    again = Replayer(engine.space, {}).prompt(through_json(made.recipe))
    assert prompt_sha256(again) == prompt_sha256(made)
    assert again.recipe == made.recipe


def test_a_ratio_beyond_the_shortest_word_can_be_replayed(tiny):
    made = compress(tiny.embed("incomprehensibilities"), ratio=50, space=tiny)
    again = Replayer(tiny, {}).prompt(through_json(made.recipe))
    assert prompt_sha256(again) == prompt_sha256(made)
    assert again.recipe == made.recipe


DOCUMENT = (
    "The museum opens at nine. A ticket costs 14 euros. The director is Paula Adams. Dogs must wait outside."
)
QUESTION = "How much is a ticket today?"
QUERIES = {
    "a text": lambda s: compress(s.embed(DOCUMENT), 3, query=QUESTION),
    "a text that does not match": lambda s: compress(s.embed(DOCUMENT), 3, query="Zxqv wqjk?"),
    "rows": lambda s: compress(s.embed(DOCUMENT), 3, query=s.embed(QUESTION)),
    "rows of a chat": lambda s: compress(s.embed(DOCUMENT), 3, query=chat(s, QUESTION)),
    "a text of the prompt": lambda s: compress(chat(s, f"{DOCUMENT}\n\n{QUESTION}"), 3, query=QUESTION),
    "for one message": lambda s: compress(
        PromptEmbeds.concat([chat(s, DOCUMENT), chat(s, DOCUMENT)]), 3, query=QUESTION, only=1
    ),
    "with an encoder": lambda s: compress(s.embed(DOCUMENT), 3, query=QUESTION, encoder=SentenceEncoder()),
    "with words to keep": lambda s: compress(chat(s, DOCUMENT), 3, query=QUESTION, keep="Dogs", only=-1),
    "twice": lambda s: compress(compress(chat(s, DOCUMENT), 2, keep="Dogs"), 2, query=QUESTION, keep="Dogs"),
}


@pytest.mark.parametrize("way", QUERIES)
def test_compression_for_a_question_is_made_again(smollm2, way):
    made = QUERIES[way](smollm2)
    again = Replayer(smollm2, {}).prompt(through_json(made.recipe))
    assert prompt_sha256(again) == prompt_sha256(made)
    assert torch.equal(again.content, made.content)
    assert again.recipe == made.recipe


def test_compression_with_another_encoder_of_the_name_is_refused(smollm2):
    made = compress(smollm2.embed(DOCUMENT), 3, query=QUESTION, encoder=SentenceEncoder())
    given = dict(made.recipe.parameters) | {"encoder_fingerprint": "0123"}
    with pytest.raises(ValueError, match=r"the sentence encoder 'all-minilm-l6-v2' is \w+, 0123 was used"):
        Replayer(smollm2, {}).prompt(Recipe.of("compress", given, *made.recipe.inputs))


@pytest.mark.parametrize(("version", "named"), [(None, "version 1"), (1, "version 1"), (99, "version 99")])
def test_compression_by_another_version_of_the_rule_is_refused(smollm2, version, named):
    made = compress(smollm2.embed(DOCUMENT), 3)
    given = dict(made.recipe.parameters)
    assert given.pop("version") == SALIENCE_VERSION
    old = Recipe.of(
        "compress", given | ({} if version is None else {"version": version}), *made.recipe.inputs
    )
    with pytest.raises(
        ValueError, match=rf"by {named} of the salience rule.*replay it with the embedspace that made"
    ):
        Replayer(smollm2, {}).prompt(old)


def test_compression_by_a_rule_without_a_version_needs_none(smollm2):
    made = compress(smollm2.embed(DOCUMENT), 3, method="merge")
    assert "version" not in dict(made.recipe.parameters)
    assert prompt_sha256(Replayer(smollm2, {}).prompt(made.recipe)) == prompt_sha256(made)


def steps_of(recipe):
    return {recipe.operation}.union(*map(steps_of, recipe.inputs))


def test_every_prompt_of_every_experiment_can_be_made_again(smollm2):
    experiment = instantiate(composed("experiment=demo", "out=unused").experiment)
    known = {vector.digest: vector for vector in shipped_vectors(smollm2)}
    replayer, steps = Replayer(smollm2, known), set()
    for case in experiment.cases(smollm2):
        recipe = through_json(case.recipe)
        again = replayer.ids(recipe) or replayer.prompt(recipe)
        assert prompt_sha256(again) == prompt_sha256(case.prompt), case.key
        steps |= steps_of(recipe)
    assert {
        "token_ids",
        "embed_chat",
        "shuffle_rows",
        "random_rows",
        "style",
        "interpolate",
        "compress",
    } <= steps


def test_digests_tell_dtype_shape_and_rows_apart(tiny):
    a = tiny.embed("one two three")
    rows = a.vectors
    others = [
        a.to(torch.bfloat16),
        dataclasses.replace(a, vectors=rows.flip(0)),
        a.first_rows(2),
        dataclasses.replace(a, vectors=rows.reshape(-1, 2 * rows.shape[1]), content=a.content[:1])
        if len(rows) == 2
        else a.first_rows(1),
        tiny.tokenize("one two three"),
    ]
    assert len({prompt_sha256(prompt) for prompt in [a, *others]}) == 1 + len(others)
    assert prompt_sha256(dataclasses.replace(a, vectors=torch.stack([*rows]))) == prompt_sha256(a)


@pytest.fixture
def run(tmp_path, tiny):
    """Makes a real run of given prompts and returns its record file."""

    def made(*prompts):
        cases = [Case(f"case {number}", prompt) for number, prompt in enumerate(prompts)]
        config = {"model": {"name": tiny.name}}
        with Run.open(tmp_path / "run", config, fingerprint=tiny.fingerprint) as opened:
            execute(opened, lambda: TransformersEngine(tiny), cases, ONCE, title="test")
        return tmp_path / "run" / "records.jsonl"

    return made


def test_a_recorded_prompt_is_replayed_by_its_index(run, tiny, capsys):
    path = run(tiny.embed("zero"), tiny.tokenize("one"), fitted(tiny).apply(tiny.embed("two"), 2.0))
    for index in range(3):
        assert replay(path, index).identical
        assert main(["replay", str(path), "--index", str(index)]) == 0
        assert "bit-identical" in capsys.readouterr().out


def test_a_prompt_that_comes_out_differently_is_told(run, tiny, capsys):
    path = run(tiny.embed("zero"))
    fields = json.loads(path.read_text())
    fields["recipe"]["parameters"]["text"] = "one"
    path.write_text(json.dumps(fields) + "\n")
    assert not replay(path, 0).identical
    assert main(["replay", str(path), "--index", "0"]) == 1
    assert "NOT the same" in capsys.readouterr().out


def test_a_vector_that_was_found_by_optimisation_is_taken_from_its_file(run, tiny, tmp_path):
    settings = Optimisation(
        TransformersEngine(tiny), [tiny.embed("a question"), tiny.embed("another")], epochs=1, norm=1.0
    )
    style = StyleVector.fit(tiny, FORMAL, CASUAL, method="optimised", optimisation=settings)
    path = run(style.apply(tiny.embed("two"), 2.0))
    with pytest.raises(ValueError, match="--vector FILE"):
        replay(path, 0)
    style.save(tmp_path / "style.safetensors")
    assert replay(path, 0, vectors=[tmp_path / "style.safetensors"]).identical


def test_an_adapter_is_read_again_or_missed(run, tiny, tmp_path):
    shape = {"num_layers": 1, "num_attention_heads": 2}
    folder, rows = adapter(tmp_path / "adapter", tiny, **shape)
    path = run(PromptEmbeds.from_peft(folder, tiny, before=tiny.embed("a")))
    assert replay(path, 0).identical
    adapter(tmp_path / "adapter", tiny, rows=rows + 1, **shape)
    with pytest.raises(ValueError, match="its rows have changed"):
        replay(path, 0)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=f"{folder} is not a PEFT adapter"):
        replay(path, 0)


def test_another_model_is_named(run, tiny, tmp_path, smollm2):
    path = run(tiny.embed("zero"))
    with pytest.raises(ValueError, match=f"lives in the space {tiny.fingerprint}.*{smollm2.fingerprint}"):
        replay(path, 0, model="smollm2-135m-instruct")
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes(path.read_bytes())
    assert replay(alone, 0).identical  # the engine's name of the model stands in the record


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(prompt_sha256=None), "kept no digest"),
        (lambda r: r["recipe"].update(operation="dance"), "step 'dance'.*known are embed, "),
        (lambda r: r["recipe"].update(operation="with_content"), "given by hand"),
        (lambda r: r["recipe"].update(parameters={}), r"step embed\(\) lacks .*'text'"),
        (lambda r: r["recipe"].update(operation="to", parameters={"dtype": "float32"}), "another version"),
        (lambda r: r["recipe"].update(parameters={"text": 5}), "another version"),
        (
            lambda r: r.update(
                recipe={"operation": "style", "parameters": {"vector": "0" * 32}, "inputs": [r["recipe"]]}
            ),
            "another version",
        ),
    ],
)
def test_a_record_that_cannot_be_replayed_says_why(run, tiny, change, words, capsys):
    path = run(tiny.embed("zero"))
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields) + "\n")
    with pytest.raises(ValueError, match=words):
        replay(path, 0)
    assert main(["replay", str(path), "--index", "0"]) == 2
    assert "embedspace: " in capsys.readouterr().err


def test_missing_files_and_records_are_named(run, tiny, tmp_path):
    path = run(tiny.embed("zero"))
    with pytest.raises(ValueError, match=r"holds 1 records.*no record 1"):
        replay(path, 1)
    with pytest.raises(ValueError, match="index is -1"):
        replay(path, -1)
    with pytest.raises(ValueError, match="no record file"):
        replay(tmp_path / "nothing.jsonl", 0)
    with pytest.raises(ValueError, match="there is no file"):
        replay(path, 0, vectors=[tmp_path / "nothing.safetensors"])
    assert [record.prompt_sha256 for record in read_records(path)] == [prompt_sha256(tiny.embed("zero"))]
