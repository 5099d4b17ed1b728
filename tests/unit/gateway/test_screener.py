"""Claims about the screening of requests in a worker, with filters whose answers can be chosen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from embedspace import EmbeddingSpace
from embedspace.gateway import Limits
from embedspace.gateway.frames import Frame
from embedspace.gateway.screener import MAX_BATCH_PROMPTS, RequestScreener
from embedspace.prompt import PromptEmbeds
from embedspace.safety import Verdict
from tests.unit.gateway.setup import Setup


@dataclass(frozen=True)
class Rule:
    """Stands in for a filter whose answers can be chosen."""

    judge: Callable[[str], Verdict]
    space: EmbeddingSpace
    batches: list[int] = field(default_factory=list)
    """Number of prompts of each call."""

    def check_many(self, prompts: Sequence[PromptEmbeds]) -> list[Verdict]:
        self.batches.append(len(prompts))
        return [self.judge(self.space.read(prompt)) for prompt in prompts]


def screened(setup: Setup, judge: Callable[[str], Verdict], *bodies: object) -> list[str | None]:
    """Reason codes, or None for what is let through."""
    screener = RequestScreener(Rule(judge, setup.space), setup.space, Limits(), False)
    jobs = [
        Frame(
            n,
            {"path": "/v1/chat/completions" if "messages" in body else "/v1/completions"},
            json.dumps(body).encode(),
        )
        for n, body in enumerate(bodies)  # type: ignore[arg-type]
    ]
    answers = list(screener.answers(jobs))
    assert [answer.number for answer in answers] == list(range(len(jobs)))
    assert all(bool(answer.body) != ("refusal" in answer.fields) for answer in answers)
    return [answer.fields["refusal"]["code"] if "refusal" in answer.fields else None for answer in answers]


def test_parts_that_are_harmless_apart_are_screened_together(setup: Setup) -> None:
    def judge(text: str) -> Verdict:
        return Verdict(not ("harm" in text and "ful" in text), 0.0, 1.0, "")

    def chat(*texts: str) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": [
            {"type": "prompt_embeds", "data": setup.payload(text)}]} for text in texts]}  # fmt: skip

    asked = [chat("harm"), chat("ful"), chat("harm", "ful"), chat("harm", "less", "ful")]
    assert screened(setup, judge, *asked) == [None, None, "prompt_refused", "prompt_refused"]


def test_a_filter_that_fails_or_gives_no_number_is_a_refusal_of_that_request_alone(setup: Setup) -> None:
    def judge(text: str) -> Verdict:
        if "raise" in text:
            raise RuntimeError("the filter is broken")
        return Verdict(True, float("nan") if "nothing" in text else 0.0, 1.0, "")

    asked = [{"prompt_embeds": setup.payload(text)} for text in ("fine", "raise", "nothing", "fine")]
    assert screened(setup, judge, *asked) == [None, "screening_failed", "prompt_refused", None]


def test_an_infinite_score_is_refused_and_travels_as_json(setup: Setup) -> None:
    judged = Verdict(False, float("inf"), 0.5, "structural: too long")
    assert screened(setup, lambda _: judged, {"prompt_embeds": setup.payload("x")}) == ["prompt_refused"]


def allowed(text: str) -> Verdict:
    return Verdict(True, 0.0, 1.0, "")


def completions(number: int, **body: object) -> Frame:
    return Frame(number, {"path": "/v1/completions"}, json.dumps(body).encode())


def test_requests_are_screened_together_in_small_batches(setup: Setup) -> None:
    rule = Rule(allowed, setup.space)
    screener = RequestScreener(rule, setup.space, Limits(), False)
    payload = setup.payload("x")
    jobs = [completions(n, prompt_embeds=payload) for n in range(2 * MAX_BATCH_PROMPTS + 3)]
    answers = screener.answers(jobs)
    assert next(answers).number == 0
    assert rule.batches == [MAX_BATCH_PROMPTS]  # the first is answered before the others are screened
    assert [answer.number for answer in answers] == list(range(1, len(jobs)))
    assert rule.batches == [MAX_BATCH_PROMPTS, MAX_BATCH_PROMPTS, 3]


def test_the_body_is_serialised_again_with_its_text_unchanged(setup: Setup) -> None:
    screener = RequestScreener(Rule(allowed, setup.space), setup.space, Limits(), False)
    asked = {"prompt": "日本 \u2028 é", "stop": ["\n"], "temperature": 0.1, "seed": 2**62}
    (answer,) = screener.answers(
        [Frame(0, {"path": "/v1/completions"}, json.dumps(asked, indent=1).encode())]
    )
    assert json.loads(answer.body) == asked
    assert "日本".encode() in answer.body  # as escapes it would be twice as long
    assert b": " not in answer.body


def test_screened_text_that_fits_no_context_is_refused_before_it_is_embedded(setup: Setup) -> None:
    rule = Rule(allowed, setup.space)
    screener = RequestScreener(rule, setup.space, Limits(rows=8), True)
    for prompt in ("word " * 9, [5] * 9):
        (answer,) = screener.answers([completions(0, prompt=prompt)])
        assert answer.fields["refusal"]["code"] == "invalid_field"
    assert rule.batches == []


def test_a_worker_cannot_send_more_than_the_gateway_expects() -> None:
    async def read(max_bytes: int) -> Frame:
        reader = asyncio.StreamReader()
        reader.feed_data(Frame(7, {"a": 1}, b"x" * 100).to_bytes())
        return await Frame.read(reader, max_bytes)

    assert asyncio.run(read(200)) == Frame(7, {"a": 1}, b"x" * 100)
    with pytest.raises(ValueError, match="at most 50"):
        asyncio.run(read(50))
