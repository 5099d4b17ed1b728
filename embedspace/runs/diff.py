"""What differs between two runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedspace._util.run_folder import comparable_setting, flatten_settings, is_covered
from embedspace.runs.records import Record, read_records
from embedspace.runs.run import MANIFEST, RECORDS, UNIMPORTANT, read_manifest

ABSENT = "(absent)"
NLL_TOLERANCE = 1e-3
"""Likelihoods that differ by less are the same: batches of another size already move the last digits."""
MAX_SHOWN = 5
"""Most prompts and most completions that are shown one by one."""


Place = tuple[str, int]
"""Key of a case and number of a completion."""
Pair = tuple[Record, Record]


@dataclass(frozen=True)
class Difference:
    """One line of the comparison."""

    kind: str
    """``configuration``, ``model``, ``versions``, ``git``, ``engine``, ``prompts`` or ``completions``."""
    name: str
    first: str
    second: str


def differences(first: str | Path, second: str | Path) -> list[Difference]:
    """Everything in which the results of two run folders, or where they come from, differ.

    Folders, addresses, times and machines do not count.

    >>> import tempfile
    >>> from embedspace.runs import Run
    >>> place = tempfile.mkdtemp()
    >>> for seed in (1, 2):
    ...     Run.open(f"{place}/{seed}", {"seed": seed}, fingerprint="abc").close()
    >>> [(each.kind, each.name, each.first, each.second) for each in differences(f"{place}/1", f"{place}/2")]
    [('configuration', 'seed', '1', '2')]

    Raises:
        ValueError: a folder holds no run, or a damaged one.
    """
    a, b = (_Side.of(Path(folder)) for folder in (first, second))
    facts = [each for kind, read in _FACTS.items() for each in _facts(kind, read(a), read(b))]
    return [*facts, *_prompts(a, b), *_completions(a, b)]


@dataclass(frozen=True)
class _Side:
    """One of the two runs."""

    manifest: Mapping[str, Any]
    records: Mapping[Place, Record]

    @classmethod
    def of(cls, folder: Path) -> _Side:
        if not (folder / MANIFEST).is_file():
            raise ValueError(f"{folder} is not the folder of a run: it has no {MANIFEST}")
        path = folder / RECORDS
        records = read_records(path) if path.is_file() else ()
        return cls(read_manifest(folder) or {}, {(record.key, record.choice): record for record in records})


def _configuration(run: _Side) -> dict[str, str]:
    return {
        name: repr(comparable_setting(name, value))
        for name, value in flatten_settings(run.manifest["config"]).items()
        if not is_covered(name, UNIMPORTANT)
    }


def _over_sittings(run: _Side, read: Callable[[Mapping[str, Any]], Mapping[str, object]]) -> dict[str, str]:
    """Values of a run's sittings by name; where sittings differ, all their values."""
    found: dict[str, list[str]] = {}
    for sitting in run.manifest["sittings"]:
        for name, value in read(sitting).items():
            found.setdefault(name, []).append(str(value))
    return {name: ", ".join(dict.fromkeys(values)) for name, values in found.items()}


def _engine(sitting: Mapping[str, Any]) -> Mapping[str, object]:
    return {name: value for name, value in sitting.get("engine", {}).items() if name != "url"}


_FACTS: dict[str, Callable[[_Side], dict[str, str]]] = {
    "configuration": _configuration,
    "model": lambda run: {"fingerprint": str(run.manifest["fingerprint"])},
    "versions": lambda run: _over_sittings(
        run, lambda sitting: {"python": sitting.get("python"), **sitting.get("packages", {})}
    ),
    "git": lambda run: _over_sittings(run, lambda sitting: sitting.get("git") or {}),
    "engine": lambda run: _over_sittings(run, _engine),
}


def _facts(kind: str, first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Difference]:
    """Named values that are not the same on both sides."""
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) != second.get(name):
            yield Difference(kind, name, first.get(name, ABSENT), second.get(name, ABSENT))


def _prompts(first: _Side, second: _Side) -> Iterator[Difference]:
    """Cases that only one run has, and prompts that were made in another way or of other rows."""
    ours, theirs = ({key: record for (key, _), record in run.records.items()} for run in (first, second))
    for kind, here, there in (("only in the first", ours, theirs), ("only in the second", theirs, ours)):
        if missing := [key for key in here if key not in there]:
            keys = _few(missing)
            yield Difference("prompts", kind, *((keys, ABSENT) if here is ours else (ABSENT, keys)))
    pairs = {(key, 0): (ours[key], theirs[key]) for key in ours if key in theirs}
    remade = {place: pair for place, pair in pairs.items() if pair[0].recipe != pair[1].recipe}
    yield from _each("prompts", remade, lambda record: _short(record.recipe))
    rows = {place: pair for place, pair in pairs.items() if _other_rows(*pair)}
    yield from _each("prompts", rows, lambda record: f"same recipe, rows {record.prompt_sha256}")


def _completions(first: _Side, second: _Side) -> Iterator[Difference]:
    """Answers and likelihoods of the cases that both runs have."""
    pairs = {
        place: (record, second.records[place])
        for place, record in first.records.items()
        if place in second.records
    }
    other = {place: pair for place, pair in pairs.items() if _answer(pair[0]) != _answer(pair[1])}
    yield from _each("completions", other, _describe_answer)
    gaps = {place: _gap(*pair) for place, pair in pairs.items()}
    if far := {place: gap for place, gap in gaps.items() if gap > NLL_TOLERANCE}:
        place = max(far, key=far.__getitem__)
        name = f"likelihoods of {len(far)} of {len(pairs)} cases, most in {place[0]}"
        yield Difference("completions", name, *map(_describe_scores, pairs[place]))


def _each(kind: str, pairs: Mapping[Place, Pair], show: Callable[[Record], str]) -> Iterator[Difference]:
    """The first few differences of a kind, and how many there are besides."""
    for (key, choice), pair in itertools.islice(pairs.items(), MAX_SHOWN):
        yield Difference(kind, f"{key}, choice {choice}" if choice else key, *map(show, pair))
    if len(pairs) > MAX_SHOWN:
        yield Difference(kind, f"and {len(pairs) - MAX_SHOWN} more", "", "")


def _other_rows(a: Record, b: Record) -> bool:
    """Whether one recipe made two prompts; False for records of earlier versions, which have no hash."""
    known = a.prompt_sha256 is not None and b.prompt_sha256 is not None
    return known and a.recipe == b.recipe and a.prompt_sha256 != b.prompt_sha256


def _answer(record: Record) -> tuple[object, ...]:
    return record.text, record.token_ids, record.finish_reason, record.error


def _describe_answer(record: Record) -> str:
    return (
        f"error: {record.error}" if record.error else f"{_short(repr(record.text))} ({record.finish_reason})"
    )


def _describe_scores(record: Record) -> str:
    return ", ".join(f"{name}: {score.logprob:.4f}" for name, score in record.scores.items())


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:297]}..."


def _gap(a: Record, b: Record) -> float:
    """Largest difference of a likelihood, in nats; infinite where only one of the two has it."""
    if a.scores.keys() != b.scores.keys():
        return float("inf")
    return max((abs(a.scores[name].logprob - b.scores[name].logprob) for name in a.scores), default=0.0)


def _few(keys: Sequence[str]) -> str:
    return f"{len(keys)}: {', '.join(keys[:MAX_SHOWN])}{', ...' if len(keys) > MAX_SHOWN else ''}"
