"""Execution of cases: each is asked once and recorded as soon as it is answered."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from embedspace._util.progress import progress
from embedspace.engines import Completion, Engine, RetryingEngine, Sampling, Scorer
from embedspace.errors import EngineResponseError
from embedspace.metrics import Score
from embedspace.prompt import PromptEmbeds, Recipe
from embedspace.runs.cases import AnswerOf, Case, Continuation, prompt_sha256
from embedspace.runs.records import SCORED, Record
from embedspace.runs.run import Run
from embedspace.space import recorded_times, without_times

SCORE_BATCH_SIZE = 64
"""Cases without an answer that the engine scores together; those of like length share a batch."""


@dataclass(frozen=True)
class RunSummary:
    """How many cases were recorded, failed and skipped."""

    cases: int
    """All cases of the experiment, those of earlier sittings included."""
    recorded: int
    """Recorded now, failed ones included."""
    failed: int
    """Recorded with an error."""
    skipped: int
    """Left out because they ask for likelihoods that the engine cannot compute."""
    retries: Mapping[str, int] = field(default_factory=dict)
    """Requests that the engine sent again, by the reason for it."""

    def __str__(self) -> str:
        parts = [f"{self.cases} cases, {self.recorded} asked now"]
        if self.retries:
            reasons = ", ".join(f"{reason} {times}" for reason, times in sorted(self.retries.items()))
            parts.append(f"{sum(self.retries.values())} requests sent again ({reasons})")
        if self.skipped:
            parts.append(f"{self.skipped} skipped, since this engine cannot compute likelihoods")
        return "; ".join(parts)


def execute(
    run: Run,
    open_engine: Callable[[], Engine],
    cases: Iterable[Case],
    sampling: Sampling,
    *,
    title: str,
    hint: str = "",
) -> RunSummary:
    """Ask everything that the run has not recorded yet; say on stderr how much that is before the engine is opened.

    >>> import tempfile
    >>> class SumEngine:
    ...     def generate(self, prompts, sampling):
    ...         return (Completion(i, 0, f"{sum(ids)}", (), "stop", 0.0) for i, ids in enumerate(prompts))
    ...     def describe(self):
    ...         return {"engine": "sum"}
    ...     def close(self):
    ...         pass
    >>> with Run.open(tempfile.mkdtemp(), {}, fingerprint="abc") as run:
    ...     summary = execute(run, SumEngine, [Case("q0", [1, 2])], Sampling(), title="sums")
    ...     summary.recorded, [record.text for record in run.records()]
    (1, ['3'])

    Args:
        run: where the records go.
        open_engine: starts the engine; not called where nothing is left to ask.
        cases: of the experiment; each prompt is made once: that of a recorded case to compare its recipe with the
            record, that of any other case when the engine takes it.
        sampling: how to generate.
        title: of the progress bar.
        hint: what can be done to ask less.

    Raises:
        ValueError: two cases have one key, or the recorded prompts are not those of these cases.
        EngineError: the engine stopped working or left prompts unanswered; what was recorded is kept.
        OSError: the records cannot be written.
    """
    plan = _Plan.of(run, cases)
    if not plan.pending:
        return RunSummary(plan.total, 0, 0, plan.total - len(run.log.completed))
    print(f"{title}: {plan}{f'; {hint}' if hint else ''}", file=sys.stderr, flush=True)
    with closing(open_engine()) as engine:
        scores = isinstance(engine, Scorer)
        run.note({"engine": engine.describe(), "engine_scores": scores})
        before = plan.total - len(plan.pending)
        skipped = 0 if scores else sum(not case.answered for case in plan.pending)
        left = (case for case in _drained(plan.pending) if case.answered or scores)
        recorded = len(plan.pending) - skipped
        failed = 0
        retries: Mapping[str, int] = {}
        try:
            with progress(title, plan.total - skipped, before) as advance:
                for records in _recorded(run, engine, left, sampling, plan.referred):
                    failed += any(record.error is not None for record in records)
                    advance()
        finally:
            if isinstance(engine, RetryingEngine):
                # The run writes it when it is closed, also where the engine failed.
                retries = run.sitting["retries"] = dict(engine.retries)
    return RunSummary(plan.total, recorded, failed, skipped, retries)


@dataclass(frozen=True)
class _Plan:
    """What is left to do."""

    total: int
    pending: deque[Case]
    """The cases that are not recorded."""
    referred: frozenset[str]
    """Keys of cases whose answers others refer to."""

    def __str__(self) -> str:
        answered = sum(case.answered for case in self.pending)
        before = self.total - len(self.pending)
        parts = [
            f"{self.total} cases" + (f", {before} of them recorded before" if before else ""),
            *([f"{answered} to be answered"] if answered else []),
            *([f"{len(self.pending) - answered} to be scored"] if answered < len(self.pending) else []),
        ]
        return ", ".join(parts)

    @classmethod
    def of(cls, run: Run, cases: Iterable[Case]) -> _Plan:
        done = run.log.completed
        seen: set[str] = set()
        pending: deque[Case] = deque()
        referred: set[str] = set()
        for case in cases:
            if case.key in seen:
                raise ValueError(f"two cases have the key {case.key!r}; keys must be unique in an experiment")
            needed = {target.key for target in case.continuations.values() if isinstance(target, AnswerOf)}
            if not needed <= seen:
                raise ValueError(
                    f"case {case.key!r} refers to answers of later or unknown cases: {needed - seen}"
                )
            seen.add(case.key)
            referred |= needed
            if case.key in done:
                # Records of earlier versions have no times.
                digest, recipe = done[case.key], case.recipe
                if digest != recipe.digest and digest != without_times(recipe).digest:
                    raise ValueError(_other_prompts(run, case.key, recipe))
            elif case.answered or run.engine_scores is not False:
                pending.append(case)
        if unknown := done.keys() - seen:
            raise ValueError(_other_prompts(run, min(unknown)))
        return cls(len(seen), pending, frozenset(referred))


def _drained(pending: deque[Case]) -> Iterator[Case]:
    """The cases in order; none is kept, and no prompt with it."""
    while pending:
        yield pending.popleft()


def _other_prompts(run: Run, key: str, made: Recipe | None = None) -> str:
    recorded = next((record.recipe for record in run.records() if record.key == key), None)
    if made is not None and recorded is not None and without_times(made) == without_times(recorded):
        return (
            f"{run.folder} holds a record of {key!r} whose chat template read the time as {recorded_times(recorded)}, "
            f"and this prompt was made at {recorded_times(made)}. Make prompts after Run.open, which gives templates "
            "the time of the run, or set it: embed_chat(..., template={'strftime_now': '2026-07-12'})"
        )
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
    context = RecordContext(sampling, run.fingerprint, engine.describe())
    for kind, alike in itertools.groupby(cases, key=_kind):
        answered = _strategies(engine, sampling)[kind](alike)
        while some := list(itertools.islice(answered, SCORE_BATCH_SIZE if kind == "scored" else 1)):
            scored = _scores(engine, [case for case, _ in some], answers)
            for (case, completions), (scores, problem) in zip(some, scored, strict=True):
                records = [context.record(case, completion, scores, problem) for completion in completions]
                run.log.append(records)
                if case.key in referred:
                    answers[case.key] = records[0]
                yield records


def _kind(case: Case) -> str:
    return "scored" if not case.answered else "timed" if case.timed else "answered"


_Strategy = Callable[[Iterable[Case]], Iterator[tuple[Case, list[Completion]]]]


def _strategies(engine: Engine, sampling: Sampling) -> Mapping[str, _Strategy]:
    """How the engine answers the cases of each kind."""
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
        requests = [
            (case.prompt, [_target(target, answers) for target in case.continuations.values()])
            for case in cases
        ]
        scored = engine.score_all(requests)
        return [({name: Score(float(logprobs.sum()), len(logprobs))
                  for name, logprobs in zip(case.continuations, of_case, strict=True)}, None)
                for case, of_case in zip(cases, scored, strict=True)]  # fmt: skip
    except ValueError as error:
        if len(cases) == 1:
            return [({}, f"the likelihoods could not be computed: {error}")]
        return [scores for case in cases for scores in _scores(engine, [case], answers)]


def _target(continuation: Continuation, answers: Mapping[str, Record]) -> str | Sequence[int]:
    if isinstance(continuation, str):
        return continuation
    answer = answers.get(continuation.key)
    if answer is None or answer.error is not None:
        raise ValueError(f"the answer of {continuation.key!r} is missing, since that case failed")
    return answer.token_ids or answer.text


@dataclass(frozen=True)
class RecordContext:
    """What all records of one execution have in common."""

    sampling: Sampling
    space: str
    engine: Mapping[str, str]

    def record(
        self, case: Case, completion: Completion, scores: Mapping[str, Score], problem: str | None
    ) -> Record:
        """The record of one completion of a case; ``problem`` is why its likelihoods are missing."""
        error = completion.error or problem
        return Record(
            key=case.key,
            choice=completion.index,
            tags=case.tags,
            recipe=case.recipe,
            rows=len(case.prompt),
            sampling=_first_token(self.sampling) if case.timed else self.sampling,
            space=self.space,
            engine=self.engine,
            text=completion.text,
            token_ids=completion.token_ids,
            finish_reason=completion.finish_reason if error is None else "error",
            seconds=round(completion.seconds, 6),
            scores=scores,
            error=error,
            prompt_sha256=prompt_sha256(case.prompt),
        )
