"""Decoding and screening of requests, as a worker does it: nothing that a caller sent is decoded anywhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from embedspace.engines.guarding import Guard, Judgement, admits
from embedspace.gateway.frames import Frame
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.request import CHAT, Piece, parse, pieces
from embedspace.gateway.settings import Limits
from embedspace.prompt import PromptEmbeds
from embedspace.recipe import Recipe
from embedspace.wire import decode_prompt_embeds, encode_prompt_embeds, preflight

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

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
        """One answer for each request, in order; prompts of several requests are screened together."""
        opened = [self._opened(job) for job in jobs]
        prompts = [prompt for each in opened if isinstance(each, _Opened) for prompt in each.prompts]
        try:
            judgements = iter(self._judged(prompts))
            for job, each in zip(jobs, opened, strict=True):
                yield (
                    self._answer(job, each, judgements) if isinstance(each, _Opened) else _refused(job, each)
                )
        except Exception:  # whatever it is, it is none of the other requests' business
            if len(jobs) > 1:
                for job in jobs:
                    yield from self.answers([job])
            else:
                yield _refused(jobs[0], _failed())

    def _opened(self, job: Frame) -> _Opened | RefusedError:
        try:
            body = parse(job.body, self.limits.depth)
            found = pieces(job.fields["path"], body, self.limits)
            rows = min(self.limits.rows, job.fields.get("rows") or self.limits.rows)
            opened = _Opened(body)
            for piece in found:
                if piece.embedded or self.screen_text:
                    self._open(piece, rows, opened)
        except RefusedError as refusal:
            return refusal
        except MemoryError:
            return RefusedError(
                400, "too_much_memory", "the request needs more memory than a request may take"
            )
        except Exception:
            return _failed()
        if job.fields["path"] == CHAT and len(opened.prompts) > 1:
            # What is harmless in each part may not be when the model reads them as one.
            opened.add("messages", PromptEmbeds.concat([each.to(torch.float32) for each in opened.prompts]))
        return opened

    def _open(self, piece: Piece, rows: int, opened: _Opened) -> None:
        if piece.embedded:
            assert isinstance(piece.value, str)
            vectors = self._decoded(piece.param, piece.value, rows)
            piece.home[piece.key] = encode_prompt_embeds(vectors)
            opened.lengths.append(len(vectors))
        elif not piece.value:
            return
        elif isinstance(piece.value, str):
            vectors = self._embedded(piece.param, piece.value)
        else:
            try:
                vectors = self.space.lookup(piece.value)
            except ValueError:
                raise RefusedError(
                    400,
                    "invalid_field",
                    f"{piece.param} has a token id outside the vocabulary",
                    param=piece.param,
                ) from None
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

    def _embedded(self, param: str, text: str) -> Tensor:
        try:
            text.encode()
            return self.space.embed(text).vectors
        except ValueError:
            raise RefusedError(400, "invalid_field", f"{param} is not text in Unicode", param=param) from None

    def _judged(self, prompts: Sequence[PromptEmbeds]) -> Sequence[Judgement]:
        judgements = self.filter.check_many(prompts) if prompts else []
        if len(judgements) != len(prompts):
            raise ValueError(f"{len(judgements)} judgements of {len(prompts)} prompts")
        return judgements

    def _answer(self, job: Frame, opened: _Opened, judgements: Iterator[Judgement]) -> Frame:
        verdicts = [next(judgements) for _ in opened.prompts]
        fields: dict[str, Any] = {
            "prompts": len(verdicts),
            "rows": sum(opened.lengths),
            "longest": max(opened.lengths, default=0),
            "model": opened.body.get("model"),
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
        return Frame(
            job.number, fields, json.dumps(opened.body, allow_nan=False, separators=(",", ":")).encode()
        )


@dataclass
class _Opened:
    """A request that was read."""

    body: dict[str, Any]
    params: list[str] = field(default_factory=list)
    prompts: list[PromptEmbeds] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """Rows of each embedded prompt or part."""

    def add(self, param: str, prompt: PromptEmbeds) -> None:
        self.params.append(param)
        self.prompts.append(prompt)


_RECIPE = Recipe("received")


def _refused(job: Frame, refusal: RefusedError) -> Frame:
    return Frame(job.number, {"refusal": refusal.to_dict()})


def _failed() -> RefusedError:
    return RefusedError(400, "screening_failed", "the request could not be screened, and so it is refused")


def _number(value: float) -> float:
    return value if math.isfinite(value) else 1e308


def _without_content(error: Exception) -> str:
    """What a check of :mod:`embedspace.wire` says, without what it quotes from the payload."""
    text = str(error)
    if text.startswith("the payload names"):
        return "the payload names something that is no part of one dense floating-point tensor"
    return text.partition(":")[0] if text.startswith("the payload") else text
