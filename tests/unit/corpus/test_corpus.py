"""A corpus is what the space embeds, text by text, whatever made its shards and whatever happened on the way."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from embedspace import EmbeddingSpace
from embedspace.corpus import Corpus, CorpusSpec, make_corpus, open_source
from embedspace.space import fixed_template_time
from tests.checkpoints import make_tiny_checkpoint
from tests.unit.space.templates import DATED

TEXTS = ["The capital of France", "Zwei Wörter, ein café", "東京", "a", " leading space", "the end " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def space(folder: Path) -> EmbeddingSpace:
    return EmbeddingSpace.from_pretrained(folder)


def written(path: Path, texts: list[object]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def work(folder: Path, tmp_path: Path, texts: list[object] | None = None, **changes: object) -> CorpusSpec:
    path = written(tmp_path / "texts.jsonl", list(TEXTS) if texts is None else texts)
    plain = CorpusSpec(str(folder), open_source(path, stride=4), tmp_path / "corpus", shard_size=4)
    return replace(plain, **changes)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def test_a_missing_ray_is_named_with_what_installs_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'embedspace\[ray\]'"):
        make_corpus(work(folder, tmp_path), runner="ray")


@pytest.mark.parametrize("what", ["embeddings", "token_ids"])
def test_every_prompt_reads_back_as_the_space_embeds_its_text(
    what: str, folder: Path, space: EmbeddingSpace, tmp_path: Path
) -> None:
    made = make_corpus(work(folder, tmp_path, what=what))
    corpus = Corpus(tmp_path / "corpus", space)
    assert len(corpus) == made.texts == len(TEXTS)
    for text, prompt in zip(TEXTS, corpus, strict=True):
        embedded = space.embed(text)
        assert torch.equal(prompt.vectors, embedded.vectors)
        assert torch.equal(prompt.content, embedded.content)
        assert prompt.recipe == embedded.recipe
    assert made.rows == sum(len(space.embed(text)) for text in TEXTS)
    assert made.size == sum(map(len, contents(tmp_path / "corpus").values()))


def test_an_unknown_runner_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown runner 'rya'; allowed are local, ray"):
        make_corpus(work(folder, tmp_path), runner="rya")  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["embeddings", "token_ids"])
def test_questions_and_conversations_read_back_as_embed_chat_makes_them(
    what: str, folder: Path, space: EmbeddingSpace, tmp_path: Path
) -> None:
    turns = [
        {"role": "user", "content": "Is it far?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Then let us go."},
    ]
    make_corpus(work(folder, tmp_path, ["How are you?", turns], what=what, template="chat"))
    corpus = Corpus(tmp_path / "corpus", space)
    for prompt, messages in zip(corpus, [[{"role": "user", "content": "How are you?"}], turns], strict=True):
        embedded = space.embed_chat(messages)
        assert torch.equal(prompt.vectors, embedded.vectors)
        assert torch.equal(prompt.content, embedded.content)
        assert prompt.recipe == embedded.recipe


@settings(max_examples=25)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), max_size=12),
    shard_size=st.integers(1, 13),
)
def test_any_texts_in_shards_of_any_size_read_back(
    texts: list[str],
    shard_size: int,
    folder: Path,
    space: EmbeddingSpace,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("any")
    made = make_corpus(work(folder, place, list(texts), shard_size=shard_size))
    assert made.shards == -(-len(texts) // shard_size)
    corpus = Corpus(place / "corpus", space)
    assert [space.embed(text).recipe for text in texts] == [prompt.recipe for prompt in corpus]
    assert all(
        torch.equal(space.embed(text).vectors, prompt.vectors)
        for text, prompt in zip(texts, corpus, strict=True)
    )


def test_a_table_that_the_model_scales_is_written_scaled(tmp_path: Path) -> None:
    scaled = make_tiny_checkpoint(tmp_path / "gemma", "gemma", dtype=torch.bfloat16)
    make_corpus(work(scaled, tmp_path))
    space = EmbeddingSpace.from_pretrained(scaled)
    (first, *_) = Corpus(tmp_path / "corpus", space)
    assert torch.equal(first.vectors, space.embed(TEXTS[0]).vectors)
    assert first.vectors.dtype == torch.bfloat16


def test_the_safetensors_library_reads_a_shard(folder: Path, space: EmbeddingSpace, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    make_corpus(work(folder, tmp_path))
    (path, *_) = sorted((tmp_path / "corpus").glob("shard-*"))
    tensors = load_file(path)
    assert tensors["offsets"].tolist()[-1] == len(tensors["vectors"]) == len(tensors["ids"])
    assert torch.equal(tensors["vectors"], space.lookup(tensors["ids"].tolist()))
    assert bytes(tensors["said"].numpy()).decode() == "".join(TEXTS[:4])


def test_a_finished_corpus_is_not_made_again(folder: Path, tmp_path: Path) -> None:
    make_corpus(work(folder, tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").glob("shard-*")}
    assert make_corpus(work(folder, tmp_path)).made == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("damage", ["one byte", "cut", "missing", "draft"])
def test_damage_is_found_and_that_shard_alone_made_anew(
    damage: str, folder: Path, space: EmbeddingSpace, tmp_path: Path
) -> None:
    make_corpus(work(folder, tmp_path))
    whole = contents(tmp_path / "corpus")
    path = tmp_path / "corpus" / max(whole)
    data = bytearray(whole[path.name])
    if damage == "one byte":
        data[-9] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-40])
    elif damage == "missing":
        path.unlink()
    else:
        path.rename(path.with_suffix(".1.draft"))
    corpus = Corpus(tmp_path / "corpus", space)
    assert corpus.damaged() == [path.name]
    with pytest.raises(ValueError, match=r"damaged|missing"):
        corpus[len(TEXTS) - 1]
    assert corpus[0].recipe == space.embed(TEXTS[0]).recipe
    made = make_corpus(work(folder, tmp_path))
    assert made.made == 1
    assert made.damaged == (damage in {"one byte", "cut"})
    assert contents(tmp_path / "corpus") == whole
    assert not list((tmp_path / "corpus").glob("*.draft"))


def test_a_text_that_is_no_prompt_is_refused_alone_with_its_reason(
    folder: Path, space: EmbeddingSpace, tmp_path: Path
) -> None:
    texts = ["fine", "", None, 7, [{"role": "user", "content": "hi"}], "word " * 600, "\ud800", "fine too"]
    plan = work(folder, tmp_path, texts)
    with (tmp_path / "texts.jsonl").open("ab") as file:
        file.write(b'{"text": "cut off\n{"other": 1}\n[]\n\xff\xfe\n')
    made = make_corpus(replace(plan, source=open_source(tmp_path / "texts.jsonl", stride=4)))
    corpus = Corpus(tmp_path / "corpus", space)
    assert made.refused == len(corpus.refused) == 10
    assert [number for number, _ in corpus.numbered()] == [0, 7]
    assert torch.equal(corpus[7].vectors, space.embed("fine too").vectors)
    for number, reason in {
        1: "empty",
        2: "no text",
        3: "int",
        4: "template=chat",
        5: "at most 512",
        6: "surrogate",
        8: "line 9 of texts.jsonl: not JSON",
        9: "no field 'text'",
        10: "list",
        11: "not JSON",
    }.items():
        assert reason in corpus.refused[number]
        with pytest.raises(ValueError, match="is no prompt"):
            corpus[number]


def test_a_text_of_ten_megabytes_is_refused_or_taken_whole(
    folder: Path, space: EmbeddingSpace, tmp_path: Path
) -> None:
    giant = "the end of a story " * (10 * 2**20 // 19)
    assert len(giant) > 10_000_000
    plan = work(folder, tmp_path, ["short", giant, "shorter"], what="token_ids")
    made = make_corpus(plan)
    assert (made.texts, made.refused) == (3, 1)
    assert "at most 512" in Corpus(plan.folder, space).refused[1]
    taken = replace(plan, max_tokens=10**8, folder=tmp_path / "taken")
    made = make_corpus(taken)
    assert made.refused == 0
    assert made.rows > 3_000_000
    assert len(Corpus(taken.folder, space)[2]) == len(space.embed("shorter"))


def test_several_processes_make_the_same_bytes_as_one(folder: Path, tmp_path: Path) -> None:
    make_corpus(work(folder, tmp_path))
    make_corpus(replace(work(folder, tmp_path), folder=tmp_path / "two"), processes=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "corpus")


def test_another_corpus_in_the_folder_is_refused_with_each_change_named(folder: Path, tmp_path: Path) -> None:
    make_corpus(work(folder, tmp_path))
    before = contents(tmp_path / "corpus")
    with pytest.raises(
        ValueError, match=r"(?s)shard_size: 4 -> 3.*what: 'embeddings' -> 'token_ids'.*fresh=true"
    ):
        make_corpus(work(folder, tmp_path, what="token_ids", shard_size=3))
    with pytest.raises(ValueError, match=r"source\.files\.0\.sha256: "):
        make_corpus(work(folder, tmp_path, ["other texts"]))
    other = make_tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="model fingerprint"):
        make_corpus(work(other, tmp_path))
    assert contents(tmp_path / "corpus") == before
    assert make_corpus(work(folder, tmp_path, ["other texts"]), fresh=True).texts == 1
    assert len(contents(tmp_path / "corpus")) == 1


def test_a_corpus_of_another_space_or_none_at_all_is_refused(
    folder: Path, space: EmbeddingSpace, tmp_path: Path
) -> None:
    make_corpus(work(folder, tmp_path))
    other = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=other.fingerprint):
        Corpus(tmp_path / "corpus", other)
    with pytest.raises(ValueError, match="holds no corpus"):
        Corpus(tmp_path, space)
    with pytest.raises(IndexError):
        Corpus(tmp_path / "corpus", space)[len(TEXTS)]
    (tmp_path / "corpus" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        Corpus(tmp_path / "corpus", space)


def test_a_folder_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        make_corpus(replace(work(folder, tmp_path), folder=blocked))


def test_the_manifest_tells_counts_settings_and_where_it_comes_from(
    folder: Path, space: EmbeddingSpace, tmp_path: Path
) -> None:
    made = make_corpus(work(folder, tmp_path, [*TEXTS, ""]))
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert manifest["fingerprint"] == space.fingerprint
    assert manifest["settings"]["source"]["files"][0]["name"] == "texts.jsonl"
    assert (manifest["texts"], manifest["rows"]) == (made.texts, made.rows)
    assert [shard["name"] for shard in manifest["shards"]] == sorted(contents(tmp_path / "corpus"))
    assert {"packages", "git", "machine"} <= set(manifest["sittings"][0])
    assert manifest["refused"] == {"6": "the text is empty"}


def test_a_corpus_has_the_variables_and_the_one_time_of_its_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_checkpoint(tmp_path / "model", layers=1, chat_template=DATED)
    space = EmbeddingSpace.from_pretrained(model)
    texts: list[object] = [f"question {number}" for number in range(6)]
    spec = work(model, tmp_path, texts, template="chat", shard_size=2, variables={"bos_token": "x"})
    with fixed_template_time(datetime(2026, 7, 12)):
        make_corpus(spec)
        expected = [
            space.embed_chat([{"role": "user", "content": text}], template={"bos_token": "x"})
            for text in texts
        ]
    next(spec.folder.glob("shard-*")).unlink()
    with fixed_template_time(datetime(2026, 7, 13)):
        assert make_corpus(spec).made == 1
    for prompt, whole in zip(Corpus(spec.folder, space), expected, strict=True):
        assert torch.equal(prompt.vectors, whole.vectors)
        assert prompt.recipe == whole.recipe
    with pytest.raises(ValueError, match=r"variables.bos_token: 'x' -> 'y'"):
        make_corpus(replace(spec, variables={"bos_token": "y"}))
