"""What a verification says: checks with their numbers, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from embedspace.engines import Completion, Sampling

GREEDY = Sampling(max_tokens=16, logprobs=2)
NEAR_TIE = 0.26
"""Nats between the two likeliest tokens under which rounding alone may decide: logits of 16 to 32 are 0.125 apart in
bfloat16, and either of the two may be off by one step."""


@dataclass(frozen=True)
class Check:
    """One claim, whether it holds, and the numbers behind it."""

    name: str
    passed: bool
    detail: str
    values: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """All checks of one model, in process and where asked for against a server."""

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
        """For machines."""
        return json.dumps({"passed": self.passed, **asdict(self)}, indent=1, ensure_ascii=False)


def compare_greedy(name: str, by_rows: Sequence[Completion], by_ids: Sequence[Completion]) -> Check:
    """Greedy continuations of embeddings and of token ids; a difference is excused only by a near-tie."""
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
    detail = f"{equal} of {len(by_rows)} equal over up to {GREEDY.max_tokens} tokens, {near_ties} parted at a near-tie"
    if different:
        detail += f", {len(different)} differ: {different[0]}"
    values = {"prompts": len(by_rows), "equal": equal, "near_ties": near_ties, "different": len(different)}
    return Check(name, not different and equal >= len(by_rows) / 2, detail, values)


def _gap_at_first_difference(a: Completion, b: Completion) -> float:
    """Nats between the two likeliest tokens where two continuations part."""
    pairs = zip(a.token_ids, b.token_ids, strict=False)
    position = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a.token_ids), len(b.token_ids)))
    for completion in (a, b):
        if position < len(completion.top_logprobs) and len(completion.top_logprobs[position]) > 1:
            first, second = sorted(completion.top_logprobs[position].values(), reverse=True)[:2]
            return first - second
    return float("inf")
