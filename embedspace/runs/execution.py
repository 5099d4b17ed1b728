"""Execution of cases: each one asked once, recorded as soon as it is answered."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from embedspace._util.progress import progress
from embedspace.engines import Completion, Engine, Resending, Sampling, Scorer
from embedspace.errors import EngineResponseError
from embedspace.metrics import Score
from embedspace.prompt import PromptEmbeds
from embedspace.runs.cases import AnswerOf, Case, Continuation, prompt_sha256
from embedspace.runs.records import SCORED, Record
from embedspace.runs.run import Run

SCORED_TOGETHER = 64
"""Cases without an answer that the engine scores together; those of like length share a batch."""


@dataclass(frozen=True)
class Outcome:
    """What became of the cases."""

    cases: int
    """All cases of the experiment, those of earlier sittings included."""
    recorded: int
    """Recorded now, failed ones included."""
    failed: int
    """Recorded with an error."""
    skipped: int
    """Left out because they ask for likelihoods that the engine cannot tell."""
    retries: Mapping[str, int] = field(default_factory=dict)
    """Requests that the engine sent again, by what they met before."""


def execute(
    run: Run,
    open_engine: Callable[[], Engine],
    cases: Callable[[], Iterable[Case]],
    sampling: Sampling,
    *,
    title: str,
) -> Outcome:
    """Ask everything that the run has not recorded yet.

    Args:
        run: where the records go.
        open_engine: starts the engine; not called where nothing is left to ask.
        cases: gives the same cases each time it is called.
        sampling: how to generate.
        title: of the progress bar.

    Raises:
        ValueError: two cases have one key, or the recorded prompts are not those of these cases.
        EngineError: the engine stopped working or left prompts unanswered; what was recorded is kept.
        OSError: the records cannot be written.
    """
    plan = _Plan.of(run, cases())
    if not plan.pending:
        return Outcome(plan.total, 0, 0, plan.total - len(run.log.completed))
    with closing(open_engine()) as engine:
        scores = isinstance(engine, Scorer)
        run.note({"engine": engine.describe(), "engine_scores": scores})
        left = (case for case in cases() if case.key in plan.pending and (case.answered or scores))
        asked = plan.pending if scores else plan.pending - plan.only_scored
        skipped = len(plan.pending) - len(asked)
        failed = 0
        retries: Mapping[str, int] = {}
        try:
            with progress(title, plan.total - skipped, plan.total - len(plan.pending)) as advance:
                for records in _recorded(run, engine, left, sampling, plan.referred):
                    failed += any(record.error is not None for record in records)
                    advance()
        finally:
            if isinstance(engine, Resending):
                # The run writes it when it is closed, also where the engine failed.
                retries = run.sitting["retries"] = dict(engine.retries)
    return Outcome(plan.total, len(asked), failed, skipped, retries)


@dataclass(frozen=True)
class _Plan:
    """What is left to do."""

    total: int
    pending: frozenset[str]
    """Keys of the cases that are not recorded."""
    only_scored: frozenset[str]
    """Keys of those that ask for likelihoods alone."""
    referred: frozenset[str]
    """Keys of cases whose answers others refer to."""

    @classmethod
    def of(cls, run: Run, cases: Iterable[Case]) -> _Plan:
        done = run.log.completed
        seen: set[str] = set()
        pending: set[str] = set()
        only_scored: set[str] = set()
        referred: set[str] = set()
        for case in cases:
            if case.key in seen:
                raise ValueError(f"two cases have the key {case.key!r}; keys must be unique in an experiment")
            needed = {target.key for target in case.continuations.values() if isinstance(target, AnswerOf)}
            if not needed <= seen:
                raise ValueError(
                    f"case {case.key!r} refers to answers of later or unknown cases: {needed - seen}"
                )
            if done.get(case.key, case.recipe.digest) != case.recipe.digest:
                raise ValueError(_other_prompts(run, case.key))
            seen.add(case.key)
            referred |= needed
            if not case.answered:
                only_scored.add(case.key)
            if case.key not in done and (case.answered or run.engine_scores is not False):
                pending.add(case.key)
        if unknown := done.keys() - seen:
            raise ValueError(_other_prompts(run, min(unknown)))
        return cls(len(seen), frozenset(pending), frozenset(only_scored), frozenset(referred))


def _other_prompts(run: Run, key: str) -> str:
    return (
        f"{run.folder} holds records of other prompts than this version of the experiment makes (first: {key!r}); "
        "choose another out=FOLDER, or pass fresh=true to throw the old run away"
    )


def _recorded(
    run: Run, engine: Engine, cases: Iterable[Case], sampling: Sampling, referred: frozenset[str]
) -> Iterator[list[Record]]:
    """The records of each case, after they have been written."""
    answers = {
        record.key: record for record in run.records() if record.choice == 0 and record.key in referred
    }
    asked = _Asked(sampling, run.fingerprint, engine.describe())
    for kind, alike in itertools.groupby(cases, key=_kind):
        answered = _ways(engine, sampling)[kind](alike)
        while some := list(itertools.islice(answered, SCORED_TOGETHER if kind == "scored" else 1)):
            told = _scores(engine, [case for case, _ in some], answers)
            for (case, completions), (scores, problem) in zip(some, told, strict=True):
                records = [asked.record(case, made, scores, problem) for made in completions]
                run.log.append(records)
                if case.key in referred:
                    answers[case.key] = records[0]
                yield records


def _kind(case: Case) -> str:
    return "scored" if not case.answered else "timed" if case.timed else "answered"


_Way = Callable[[Iterable[Case]], Iterator[tuple[Case, list[Completion]]]]


def _ways(engine: Engine, sampling: Sampling) -> Mapping[str, _Way]:
    """How cases of each kind are put to the engine."""
    first = _first_token(sampling)
    return {
        "scored": _unanswered,
        "timed": lambda cases: (pair for case in cases for pair in _answered(engine, [case], first)),
        "answered": lambda cases: _answered(engine, cases, sampling),
    }


def _first_token(sampling: Sampling) -> Sampling:
    return replace(sampling, max_tokens=1, n=1)


def _answered(
    engine: Engine, cases: Iterable[Case], sampling: Sampling
) -> Iterator[tuple[Case, list[Completion]]]:
    """Each case with all its completions, or with the one that says why it failed."""
    waiting: deque[Case] = deque()

    def prompts() -> Iterator[PromptEmbeds | Sequence[int]]:
        for case in cases:
            waiting.append(case)
            yield case.prompt

    group: list[Completion] = []
    answered = 0
    for completion in engine.generate(prompts(), sampling):
        if completion.prompt_index != answered:
            raise EngineResponseError(
                f"the engine {engine.describe()} answered prompt {completion.prompt_index} where the answer to prompt "
                f"{answered} was due"
            )
        group.append(completion)
        if completion.error is not None or len(group) == sampling.n:
            yield waiting.popleft(), group
            group, answered = [], answered + 1
    if waiting:
        raise EngineResponseError(
            f"the engine {engine.describe()} gave no full answer to {len(waiting)} of {answered + len(waiting)} prompts"
        )


def _unanswered(cases: Iterable[Case]) -> Iterator[tuple[Case, list[Completion]]]:
    for case in cases:
        yield case, [Completion(0, 0, "", (), SCORED, 0.0)]


def _scores(
    engine: Engine, cases: Sequence[Case], answers: Mapping[str, Record]
) -> list[tuple[dict[str, Score], str | None]]:
    """Likelihoods of each case's continuations, or what is wrong with them."""
    if not isinstance(engine, Scorer) or not any(case.continuations for case in cases):
        return [({}, None)] * len(cases)
    try:
        asked = [
            (case.prompt, [_target(said, answers) for said in case.continuations.values()]) for case in cases
        ]
        return [
            (
                {
                    name: Score(float(each.sum()), len(each))
                    for name, each in zip(case.continuations, told, strict=True)
                },
                None,
            )
            for case, told in zip(cases, engine.score_all(asked), strict=True)
        ]
    except ValueError as error:
        if len(cases) == 1:
            return [({}, f"the likelihoods could not be computed: {error}")]
        return [told for case in cases for told in _scores(engine, [case], answers)]


def _target(continuation: Continuation, answers: Mapping[str, Record]) -> str | Sequence[int]:
    if isinstance(continuation, str):
        return continuation
    answer = answers.get(continuation.key)
    if answer is None or answer.error is not None:
        raise ValueError(f"the answer of {continuation.key!r} is missing, since that case failed")
    return answer.token_ids or answer.text


@dataclass(frozen=True)
class _Asked:
    """What all records of a sitting have in common."""

    sampling: Sampling
    space: str
    engine: Mapping[str, str]

    def record(
        self, case: Case, made: Completion, scores: Mapping[str, Score], problem: str | None
    ) -> Record:
        error = made.error or problem
        return Record(
            key=case.key,
            choice=made.index,
            tags=case.tags,
            recipe=case.recipe,
            rows=len(case.prompt),
            sampling=_first_token(self.sampling) if case.timed else self.sampling,
            space=self.space,
            engine=self.engine,
            text=made.text,
            token_ids=made.token_ids,
            finish_reason=made.finish_reason if error is None else "error",
            seconds=round(made.seconds, 6),
            scores=scores,
            error=error,
            prompt_sha256=prompt_sha256(case.prompt),
        )
