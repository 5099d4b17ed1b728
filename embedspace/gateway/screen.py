"""Decoding and screening of requests, as a worker does it: nothing that a caller sent is decoded anywhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from embedspace.engines.guard import Guard, Judgement, admits
from embedspace.gateway.frames import Frame
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.request import CHAT, Piece, parse, pieces
from embedspace.gateway.settings import Limits
from embedspace.prompt import PromptEmbeds, Recipe, decode_prompt_embeds, encode_prompt_embeds, preflight

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

MOST_PROMPTS = 16
"""Of several requests that are screened together, above which no further request is taken."""

_WIDEST = torch.float64.itemsize


@dataclass(frozen=True)
class Screen:
    """Reads requests, screens their prompts, and writes them anew for the server.

    What reaches the server is written from what was screened: the JSON from the parsed object, each payload
    from its tensor. Two readers that understand the same bytes differently, here and there, are of no use to anybody.
    """

    filter: Guard
    space: EmbeddingSpace
    limits: Limits
    screen_text: bool

    def answers(self, jobs: Sequence[Frame]) -> Iterator[Frame]:
        """One answer for each request, in order; prompts of several requests are screened together.

        So many together that a worker is heard of again soon, however much it was given at once.
        """
        group: list[tuple[Frame, _Opened | RefusedError]] = []
        for number, job in enumerate(jobs, start=1):
            group.append((job, self._opened(job)))
            prompts = sum(len(each.prompts) for _, each in group if isinstance(each, _Opened))
            if prompts >= MOST_PROMPTS or number == len(jobs):
                yield from self._answered(group)
                group = []

    def _answered(self, group: Sequence[tuple[Frame, _Opened | RefusedError]]) -> list[Frame]:
        prompts = [prompt for _, each in group if isinstance(each, _Opened) for prompt in each.prompts]
        try:
            judgements = iter(self._judged(prompts))
            return [
                _answer(job, each, judgements) if isinstance(each, _Opened) else _refused(job, each)
                for job, each in group
            ]
        except Exception:  # whatever it is, it is none of the other requests' business
            if len(group) > 1:
                return [answer for alone in group for answer in self._answered([alone])]
            return [_refused(group[0][0], _failed())]

    def _opened(self, job: Frame) -> _Opened | RefusedError:
        path = job.fields["path"]
        try:
            body = parse(job.body, self.limits.depth)
            found = pieces(path, body, self.limits)
            rows = min(self.limits.rows, job.fields.get("rows") or self.limits.rows)
            opened = _Opened(body.get("model"))
            for piece in found:
                if piece.embedded or self.screen_text:
                    self._open(piece, rows, opened)
            if path == CHAT and len(opened.prompts) > 1:
                # What is harmless in each part may not be when the model reads them as one.
                opened.add(
                    "messages", PromptEmbeds.concat([each.to(torch.float32) for each in opened.prompts])
                )
            opened.written = _written(body)
        except RefusedError as refusal:
            return refusal
        except MemoryError:
            return RefusedError(
                400, "too_much_memory", "the request needs more memory than a request may take"
            )
        except Exception:
            return _failed()
        return opened

    def _open(self, piece: Piece, rows: int, opened: _Opened) -> None:
        if piece.embedded:
            assert isinstance(piece.value, str)
            vectors = self._decoded(piece.param, piece.value, rows)
            piece.home[piece.key] = encode_prompt_embeds(vectors)
            opened.lengths.append(len(vectors))
        elif piece.value:
            vectors = self._embedded(piece.param, piece.value, rows)
        else:
            return
        content = torch.ones(len(vectors), dtype=torch.bool)
        opened.add(piece.param, PromptEmbeds(vectors, content, self.space.fingerprint, _RECIPE))

    def _decoded(self, param: str, payload: str, rows: int) -> Tensor:
        hidden_size = self.space.hidden_size
        try:
            vectors = decode_prompt_embeds(payload, max_bytes=rows * hidden_size * _WIDEST)
            preflight(vectors, hidden_size=hidden_size, max_rows=rows)
            # What is finite in float32 may not be in the model's dtype.
            preflight(vectors.to(self.space.dtype))
        except (TypeError, ValueError) as error:
            raise RefusedError(
                400, "invalid_payload", f"{param}: {_without_content(error)}", param=param
            ) from None
        return vectors

    def _embedded(self, param: str, value: str | list[int], rows: int) -> Tensor:
        try:
            if isinstance(value, str):
                value.encode()  # half of a surrogate pair is no text
            ids = self.space.tokenize(value) if isinstance(value, str) else value
            if len(ids) <= rows:
                return self.space.lookup(ids)
        except ValueError:
            raise RefusedError(
                400,
                "invalid_field",
                f"{param} is not text in Unicode, or has a token id outside the vocabulary",
                param=param,
            ) from None
        raise RefusedError(
            400, "invalid_field", f"{param} has {len(ids)} tokens and at most {rows} fit", param=param
        )

    def _judged(self, prompts: Sequence[PromptEmbeds]) -> Sequence[Judgement]:
        judgements = self.filter.check_many(prompts) if prompts else []
        if len(judgements) != len(prompts):
            raise ValueError(f"{len(judgements)} judgements of {len(prompts)} prompts")
        return judgements


@dataclass
class _Opened:
    """A request that was read."""

    model: str | None
    """That it asks for."""
    written: bytes = b""
    """As it goes to the server."""
    params: list[str] = field(default_factory=list)
    prompts: list[PromptEmbeds] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """Rows of each embedded prompt or part."""

    def add(self, param: str, prompt: PromptEmbeds) -> None:
        self.params.append(param)
        self.prompts.append(prompt)


_RECIPE = Recipe("received")


def _answer(job: Frame, opened: _Opened, judgements: Iterator[Judgement]) -> Frame:
    verdicts = [next(judgements) for _ in opened.prompts]
    fields: dict[str, Any] = {
        "prompts": len(verdicts),
        "rows": sum(opened.lengths),
        "longest": max(opened.lengths, default=0),
        "model": opened.model,
        # JSON has no infinity.
        "score": max((_number(verdict.score) for verdict in verdicts), default=None),
        "threshold": max((_number(verdict.threshold) for verdict in verdicts), default=None),
    }
    for param, verdict in zip(opened.params, verdicts, strict=True):
        if not admits(verdict):
            refusal = RefusedError(
                400, "prompt_refused", f"{param} was refused by this server's safety filter", param=param
            )
            # The first word is the layer's name; what follows may quote what the layer found.
            layer = verdict.reason.partition(":")[0][:40]
            return Frame(job.number, fields | {"refusal": refusal.to_dict(), "layer": layer})
    return Frame(job.number, fields, opened.written)


def _written(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise RefusedError(
            400, "invalid_json", "a string of the body has half of a surrogate pair, and is no text"
        ) from None


def _refused(job: Frame, refusal: RefusedError) -> Frame:
    return Frame(job.number, {"refusal": refusal.to_dict()})


def _failed() -> RefusedError:
    return RefusedError(400, "screening_failed", "the request could not be screened, and so it is refused")


def _number(value: float) -> float:
    return value if math.isfinite(value) else 1e308


def _without_content(error: Exception) -> str:
    """What a check of :mod:`embedspace.prompt.wire` says, without what it quotes from the payload."""
    text = str(error)
    if text.startswith("the payload names"):
        return "the payload names something that is no part of one dense floating-point tensor"
    return text.partition(":")[0] if text.startswith("the payload") else text
