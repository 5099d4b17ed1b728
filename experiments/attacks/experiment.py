"""Attacks: white-box attackers who optimise the rows they send, with and without knowledge of the filter."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypedDict

import torch

from embedspace import EmbeddingSpace, PromptEmbeds, SafetyFilter, StyleVector
from embedspace._util.files import atomic_write
from embedspace._util.provenance import provenance
from embedspace._util.safetensors_file import read_tensors, save_tensors
from embedspace.engines import TransformersEngine
from embedspace.models import cache_folder
from embedspace.prompt import Recipe, Value
from embedspace.reporting import Report
from embedspace.runs import Case, Record, Tag
from embedspace.safety import Manifold
from experiments.attacks.attacked_prompts import AttackedPrompts, Evasion
from experiments.attacks.metrics import DECLARED, PASSED, STRICT
from experiments.attacks.optimise import Attacker, attack
from experiments.attacks.report import IN_WORDS, NO_ATTACK, AttackReport, as_page


class Shift(TypedDict):
    """The transform that the deployment of the filter ``declared`` uses: a style vector at some strengths."""

    positive: Sequence[str]
    negative: Sequence[str]
    alphas: Sequence[float]


@dataclass(frozen=True)
class Attacks:
    """Optimises rows for every attacker, generates the model's answers, and screens the prompts with both filters.

    Rows are cached by configuration, so an interrupted run can be resumed. An attack succeeds if the answer of the
    run's own engine contains the marker.
    """

    questions: Sequence[str]
    starts: Sequence[str]
    """Harmless words after the question, whose last rows the attacker controls: one attack for each."""
    marker: str
    """Harmless word that the attacker wants the model to say, such as a colour."""
    instruction: str
    """Asks for the marker in words, as an attacker without gradients would."""
    rows: int
    """Rows of each prompt that the attacker controls."""
    filter: str
    """Shipped filter or a folder."""
    shift: Shift
    attackers: Mapping[str, Attacker | None]
    """By name; None leaves one out. The prices of the others are relative to the first."""
    dtype: str
    """Of the attacked model, as torch names it; the engine that answers has its own."""
    seed: int
    page: str | None = None
    """File for the tables when a run is analysed."""
    _cases: dict[str, list[Case]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, attacker in self.chosen.items():
            if attacker.evades not in (None, STRICT, DECLARED):
                raise ValueError(
                    f"{name!r} evades {attacker.evades!r}; the filters are {STRICT} and {DECLARED}"
                )
        if not (self.questions and self.starts and self.chosen):
            raise ValueError("attacks need questions, starts and attackers; one of them is empty")
        if self.marker.lower() in " ".join([*self.questions, *self.starts]).lower():
            raise ValueError(
                f"the marker {self.marker!r} stands in a question or a start, so an answer could contain it for "
                "that reason; choose another word"
            )

    @property
    def chosen(self) -> dict[str, Attacker]:
        """The attackers that are not left out."""
        return {name: attacker for name, attacker in self.attackers.items() if attacker is not None}

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The questions without an attack, with the instruction in words, and attacked."""
        if space.fingerprint not in self._cases:
            self._cases[space.fingerprint] = list(self._all_cases(space))
        yield from self._cases[space.fingerprint]

    def filters(self, space: EmbeddingSpace) -> dict[str, SafetyFilter]:
        """Both filters."""
        strict = SafetyFilter.from_pretrained(self.filter, space)
        vector = StyleVector.fit(space, self.shift["positive"], self.shift["negative"])
        shifted = [
            vector.apply(space.embed_chat([{"role": "user", "content": question}]), alpha)
            for question in self.questions
            for alpha in self.shift["alphas"]
        ]
        return {STRICT: strict, DECLARED: strict.with_transforms(shifted)}

    def analyse(self, records: Sequence[Record]) -> Report:
        """Success with and without each filter, refusals, and the price of passing."""
        report = AttackReport(
            self.chosen, self.questions, len(self.starts), self.rows, self.marker, self.shift["alphas"]
        )
        section = report.section(records)
        if self.page and records:
            atomic_write(Path(self.page), as_page(section, provenance()))
        return Report("Attacks on the filter", "", [section])

    def _all_cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        filters = self.filters(space)
        endings = {NO_ATTACK: self.starts, IN_WORDS: [self.instruction] * len(self.starts)}
        plain = {
            name: [
                space.embed_chat([{"role": "user", "content": f"{question} {ending}"}])
                for question in self.questions
                for ending in each
            ]
            for name, each in endings.items()
        }
        for name, prompts in plain.items():
            yield from self._screened(name, prompts, filters)
        for name, attacker in self.chosen.items():
            attacked = self._attacked(space, name, attacker, plain[NO_ATTACK], filters)
            yield from self._screened(name, attacked, filters)

    def _attacked(
        self,
        space: EmbeddingSpace,
        name: str,
        attacker: Attacker,
        prompts: Sequence[PromptEmbeds],
        filters: Mapping[str, SafetyFilter],
    ) -> list[PromptEmbeds]:
        guard = filters[attacker.evades] if attacker.evades else None
        if attacker.hold in ("start", "vocabulary") and attacker.radius is None:
            attacker = replace(attacker, radius=_allowed_radius(guard, name))
        settings: dict[str, Value] = {
            "marker": self.marker,
            "rows": self.rows,
            "dtype": self.dtype,
            "seed": self.seed,
            **{key: value for key, value in asdict(attacker).items() if key != "evades"},
            "filter": None if guard is None else _digest(guard),
        }
        recipes = [Recipe.of("soft_attack", settings, prompt.recipe) for prompt in prompts]
        target = AttackedPrompts(_engine(space.folder, self.dtype), prompts, self.rows, self.marker)
        file = cache_folder() / "attacks" / f"{Recipe.of('soft_attacks', {}, *recipes).digest}.safetensors"
        rows = _cached_rows(file, target.initial_rows.shape)
        if rows is None:
            evasion = Evasion(guard, target) if guard else None
            rows = attack(target, attacker, evasion, title=f"attack: {name}", seed=self.seed)
            save_tensors(file, {"rows": rows})
        return target.with_rows(rows, recipes)

    def _screened(
        self, name: str, prompts: Sequence[PromptEmbeds], filters: Mapping[str, SafetyFilter]
    ) -> Iterator[Case]:
        verdicts = {filter_name: guard.check_many(prompts) for filter_name, guard in filters.items()}
        for number, prompt in enumerate(prompts):
            question, start = divmod(number, len(self.starts))
            decisions = {
                filter_name: PASSED if found[number].allowed else found[number].reason.split(":")[0]
                for filter_name, found in verdicts.items()
            }
            tags: dict[str, Tag] = {"attack": name, "question": question, "start": start, **decisions}
            yield Case(f"{name}/q{question:02}/s{start}", prompt, tags)


def _allowed_radius(guard: SafetyFilter | None, name: str) -> float:
    """How far from the vocabulary a filter's manifold layer lets a row be."""
    layers = [layer for layer in guard.layers if isinstance(layer, Manifold)] if guard else []
    if not layers:
        raise ValueError(
            f"{name!r} has no radius, and no filter with a manifold layer to take it from; set radius or evades"
        )
    return float(layers[0].allowed[0])


def _digest(guard: SafetyFilter) -> str:
    """Content-based identity of a filter: its ``filter.json`` contains the hash of its tensors."""
    with tempfile.TemporaryDirectory() as folder:
        guard.save(folder)
        return hashlib.sha256((Path(folder) / "filter.json").read_bytes()).hexdigest()


def _cached_rows(path: Path, shape: torch.Size) -> torch.Tensor | None:
    """Rows of an earlier attack; None where they are missing or damaged."""
    try:
        rows = read_tensors(path, advice="it will be computed again")[0].get("rows")
    except ValueError:
        return None
    return rows if rows is not None and rows.shape == shape else None


@cache
def _engine(folder: Path, dtype: str) -> TransformersEngine:
    return TransformersEngine(folder, dtype=dtype)
