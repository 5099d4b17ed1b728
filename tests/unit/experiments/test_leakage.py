"""What attackers read from rows is what was sent, and what they cannot know they do not read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embedspace import EmbeddingSpace
from experiments.leakage.experiment import Leakage
from experiments.leakage.metrics import Leak
from experiments.leakage.readers import unmixed, unshifted
from tests.checkpoints import make_tiny_checkpoint

TEXTS = ["the capital of France", "a language model reads tokens", "please answer the question"]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSpace:
    return EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def audit(space: EmbeddingSpace, tmp_path: Path) -> Leakage:
    return Leakage(
        model=str(space.folder),
        texts=TEXTS,
        style={"positive": TEXTS[:2], "negative": TEXTS[1:], "norms": [0.01]},
        steps=[0.25],
        methods=["average", "truncate"],
        ratios=[2.0],
        noises=[0.1],
        beam=16,
        most_mixed=2,
        projector=None,
        seed=0,
        page=str(tmp_path / "leakage.md"),
    )


def test_a_shift_as_large_as_the_rows_themselves_is_removed(smollm2: EmbeddingSpace) -> None:
    ids = smollm2.tokenize("How do I remove a coffee stain from a shirt that I wore yesterday?")
    shift = torch.randn(smollm2.hidden_size, generator=torch.Generator().manual_seed(0))
    moved = smollm2.lookup(ids).float() + 4 * shift / shift.norm()
    assert unshifted(smollm2, [moved]) == [[[token] for token in ids]]


@pytest.mark.parametrize("weights", [[0.75, 0.25], [0.5, 0.5], [0.4, 0.4, 0.2]])
def test_mixed_rows_are_unmixed_into_their_tokens(smollm2: EmbeddingSpace, weights: list[float]) -> None:
    ids = smollm2.tokenize(" coffee stain")[:2] + smollm2.tokenize(" purple")[:1]
    ids = ids[: len(weights)]
    mixed = torch.tensor(weights) @ smollm2.lookup(ids).float()
    found = unmixed(smollm2, mixed, weights, beam=16)
    assert sorted(found) == sorted(ids)


def test_every_transform_is_measured_once_and_a_run_writes_what_it_counted(
    audit: Leakage, space: EmbeddingSpace, tmp_path: Path
) -> None:
    audit.run(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "measurements.jsonl").read_text().splitlines()]
    assert len(lines) == audit.rows_of_table
    page = (tmp_path / "leakage.md").read_text()
    assert "Embeddings are not encryption" in page
    assert all(f"| {line['leak']['transform']} | {line['leak']['attacker']} |" in page for line in lines)


def test_untouched_rows_are_read_whole_and_cut_ones_lose_what_was_cut(
    audit: Leakage, space: EmbeddingSpace
) -> None:
    leaks: dict[str, Leak] = {leak.transform: leak for leak in audit.measured(space)}
    assert leaks["none"].found.estimate == 1
    assert leaks["none"].in_place is not None
    assert leaks["none"].in_place.estimate == 1
    assert leaks["none"].chance.estimate < 1
    assert leaks["compressed 2 times, truncate"].found.estimate < 1
    assert leaks["compressed 2 times, truncate"].in_place is None


def test_soft_tokens_of_a_sentence_give_its_own_words_away_and_not_another_s(
    audit: Leakage, smollm2: EmbeddingSpace
) -> None:
    texts = [
        "How do I remove a coffee stain?",
        "The whale swam under the bridge.",
        "Which bread has the most salt?",
    ]
    asked = replace(
        audit, model=smollm2.name, texts=texts, projector="minilm-to-smollm2", methods=[], noises=[], steps=[]
    )
    leaks = [leak for leak in asked.measured(smollm2) if "soft tokens" in leak.transform]
    assert [leak.attacker for leak in leaks] == ["nearest", "asks the model"]
    for leak in leaks:
        assert leak.found.estimate > leak.chance.estimate
        assert leak.in_place is None


def test_an_audit_that_could_compare_nothing_is_refused(audit: Leakage) -> None:
    with pytest.raises(ValueError, match="give 2 texts or more, got 1"):
        replace(audit, texts=TEXTS[:1])
    with pytest.raises(ValueError, match="beam must be at least 1"):
        replace(audit, beam=0)
