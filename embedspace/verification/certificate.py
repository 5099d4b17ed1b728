"""The result of a verification: checks with their numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from embedspace._util.progress import Advance
from embedspace.engines import Completion, Engine, Prompt, Sampling

GREEDY = Sampling(max_tokens=16, logprobs=2)
NEAR_TIE = 0.26
"""Gap in nats between the two most likely tokens below which rounding can change the order: logits of 16 to 32 have
steps of 0.125 in bfloat16, and each of the two can be off by one step."""


@dataclass(frozen=True)
class Check:
    """One claim, whether it holds, and its numbers.

    >>> Check("rows", True, "0 of 49152 rows differ", {"different_rows": 0}).passed
    True
    """

    name: str
    passed: bool
    detail: str
    values: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """All checks of one model, in process and optionally against a server.

    >>> rows, logits = Check("rows", True, "0 rows differ"), Check("logits", False, "largest difference 3")
    >>> Certificate("my-model", "2f1d", None, (rows, logits), {"torch": "2.13.0"}).passed
    False
    """

    model: str
    fingerprint: str
    server: str | None
    checks: tuple[Check, ...]
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> str:
        """All checks as JSON."""
        return json.dumps({"passed": self.passed, **asdict(self)}, indent=1, ensure_ascii=False)


def greedy_answers(engine: Engine, prompts: Iterable[Prompt], advance: Advance) -> list[Completion]:
    """The greedy continuations of prompts, counted one by one."""
    found = []
    for completion in engine.generate(prompts, GREEDY):
        found.append(completion)
        advance()
    return found


def compare_greedy(
    name: str, by_rows: Sequence[Completion], by_ids: Sequence[Completion], sampling: Sampling = GREEDY
) -> Check:
    """Compares greedy continuations of embeddings and of token ids; only near-ties excuse a difference."""
    equal, near_ties, different = 0, 0, []
    for a, b in zip(by_rows, by_ids, strict=True):
        if a.error or b.error:
            different.append(f"prompt {a.prompt_index}: {a.error or b.error}")
        elif a.token_ids == b.token_ids:
            equal += 1
        elif (gap := _gap_at_first_difference(a, b)) < NEAR_TIE:
            near_ties += 1
        else:
            different.append(
                f"prompt {a.prompt_index}: {a.text[:40]!r} against {b.text[:40]!r} (gap {gap:.2f} nats)"
            )
    detail = f"{equal} of {len(by_rows)} equal over up to {sampling.max_tokens} tokens, {near_ties} part at a near-tie"
    if different:
        detail += f", {len(different)} differ: {different[0]}"
    values = {"prompts": len(by_rows), "equal": equal, "near_ties": near_ties, "different": len(different)}
    return Check(name, not different and equal >= len(by_rows) / 2, detail, values)


def _gap_at_first_difference(a: Completion, b: Completion) -> float:
    """Gap in nats between the two most likely tokens at the first difference of two continuations."""
    pairs = zip(a.token_ids, b.token_ids, strict=False)
    position = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a.token_ids), len(b.token_ids)))
    for completion in (a, b):
        if position < len(completion.top_logprobs) and len(completion.top_logprobs[position]) > 1:
            first, second = sorted(completion.top_logprobs[position].values(), reverse=True)[:2]
            return first - second
    return float("inf")
