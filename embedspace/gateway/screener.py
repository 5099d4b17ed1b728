"""Decoding and screening of requests in a worker; callers' payloads are decoded nowhere else."""

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

MAX_BATCH_PROMPTS = 16
"""Prompts from which on no further request joins those that are screened together."""

_MAX_ITEM_BYTES = torch.float64.itemsize


@dataclass(frozen=True)
class RequestScreener:
    """Parses requests, screens their prompts, and serialises them again for the server.

    The server gets what was screened: JSON from the parsed object, payloads from the decoded tensors. A parser that
    reads the same bytes differently at the server therefore cannot be used to bypass the filter.
    """

    filter: Guard
    space: EmbeddingSpace
    limits: Limits
    screen_text: bool

    def answers(self, jobs: Sequence[Frame]) -> Iterator[Frame]:
        """One answer for each request, in order; prompts of several requests are screened together.

        Batches are small enough for the worker to answer regularly, however many requests it has.
        """
        batch: list[tuple[Frame, _DecodedRequest | RefusedError]] = []
        for number, job in enumerate(jobs, start=1):
            batch.append((job, self._decode(job)))
            prompts = sum(len(each.prompts) for _, each in batch if isinstance(each, _DecodedRequest))
            if prompts >= MAX_BATCH_PROMPTS or number == len(jobs):
                yield from self._screen(batch)
                batch = []

    def _screen(self, batch: Sequence[tuple[Frame, _DecodedRequest | RefusedError]]) -> list[Frame]:
        prompts = [p for _, each in batch if isinstance(each, _DecodedRequest) for p in each.prompts]
        try:
            verdicts = iter(self._verdicts(prompts))
            return [
                _answer(job, each, verdicts) if isinstance(each, _DecodedRequest) else _refused(job, each)
                for job, each in batch
            ]
        except Exception:  # must not affect the other requests
            if len(batch) > 1:
                return [answer for alone in batch for answer in self._screen([alone])]
            return [_refused(batch[0][0], _screening_failed())]

    def _decode(self, job: Frame) -> _DecodedRequest | RefusedError:
        path = job.fields["path"]
        try:
            body = parse(job.body, self.limits.depth)
            found = pieces(path, body, self.limits)
            rows = min(self.limits.rows, job.fields.get("rows") or self.limits.rows)
            decoded = _DecodedRequest(body.get("model"))
            for piece in found:
                if piece.embedded or self.screen_text:
                    self._decode_piece(piece, rows, decoded)
            if path == CHAT and len(decoded.prompts) > 1:
                # Parts that are harmless one by one may form an attack together.
                decoded.add(
                    "messages", PromptEmbeds.concat([each.to(torch.float32) for each in decoded.prompts])
                )
            decoded.body = _serialised(body)
        except RefusedError as refusal:
            return refusal
        except MemoryError:
            return RefusedError(
                400, "too_much_memory", "the request needs more memory than is allowed for one request"
            )
        except Exception:
            return _screening_failed()
        return decoded

    def _decode_piece(self, piece: Piece, rows: int, decoded: _DecodedRequest) -> None:
        if piece.embedded:
            assert isinstance(piece.value, str)
            vectors = self._decode_payload(piece.param, piece.value, rows)
            piece.container[piece.key] = encode_prompt_embeds(vectors)
            decoded.lengths.append(len(vectors))
        elif piece.value:
            vectors = self._embed(piece.param, piece.value, rows)
        else:
            return
        content = torch.ones(len(vectors), dtype=torch.bool)
        decoded.add(piece.param, PromptEmbeds(vectors, content, self.space.fingerprint, _RECIPE))

    def _decode_payload(self, param: str, payload: str, rows: int) -> Tensor:
        hidden_size = self.space.hidden_size
        try:
            vectors = decode_prompt_embeds(payload, max_bytes=rows * hidden_size * _MAX_ITEM_BYTES)
            preflight(vectors, hidden_size=hidden_size, max_rows=rows)
            # A number that is finite in float32 may not be in the model's dtype.
            preflight(vectors.to(self.space.dtype))
        except (TypeError, ValueError) as error:
            raise RefusedError(400, "invalid_payload", f"{param}: {error}", param=param) from None
        return vectors

    def _embed(self, param: str, value: str | list[int], rows: int) -> Tensor:
        try:
            if isinstance(value, str):
                value.encode()  # raises for half of a surrogate pair
            ids = self.space.tokenize(value) if isinstance(value, str) else value
            if len(ids) <= rows:
                return self.space.lookup(ids)
        except ValueError:
            raise RefusedError(
                400,
                "invalid_field",
                f"{param} is not valid Unicode text, or has a token id outside the vocabulary",
                param=param,
            ) from None
        raise RefusedError(
            400, "invalid_field", f"{param} has {len(ids)} tokens and at most {rows} fit", param=param
        )

    def _verdicts(self, prompts: Sequence[PromptEmbeds]) -> Sequence[Judgement]:
        verdicts = self.filter.check_many(prompts) if prompts else []
        if len(verdicts) != len(prompts):
            raise ValueError(f"{len(verdicts)} verdicts on {len(prompts)} prompts")
        return verdicts


@dataclass
class _DecodedRequest:
    """A parsed request with its prompts."""

    model: str | None
    body: bytes = b""
    """For the server."""
    params: list[str] = field(default_factory=list)
    prompts: list[PromptEmbeds] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """Rows of each embedded prompt or part."""

    def add(self, param: str, prompt: PromptEmbeds) -> None:
        self.params.append(param)
        self.prompts.append(prompt)


_RECIPE = Recipe("received")


def _answer(job: Frame, decoded: _DecodedRequest, results: Iterator[Judgement]) -> Frame:
    verdicts = [next(results) for _ in decoded.prompts]
    fields: dict[str, Any] = {
        "prompts": len(verdicts),
        "rows": sum(decoded.lengths),
        "longest": max(decoded.lengths, default=0),
        "model": decoded.model,
        # JSON has no infinity.
        "score": max((_finite(verdict.score) for verdict in verdicts), default=None),
        "threshold": max((_finite(verdict.threshold) for verdict in verdicts), default=None),
    }
    for param, verdict in zip(decoded.params, verdicts, strict=True):
        if not admits(verdict):
            refusal = RefusedError(
                400, "prompt_refused", f"{param} was refused by this server's safety filter", param=param
            )
            # The first word is the layer's name; the rest may quote content.
            layer = verdict.reason.partition(":")[0][:40]
            return Frame(job.number, fields | {"refusal": refusal.to_dict(), "layer": layer})
    return Frame(job.number, fields, decoded.body)


def _serialised(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise RefusedError(
            400, "invalid_json", "a string of the body has half of a surrogate pair and is not valid text"
        ) from None


def _refused(job: Frame, refusal: RefusedError) -> Frame:
    return Frame(job.number, {"refusal": refusal.to_dict()})


def _screening_failed() -> RefusedError:
    return RefusedError(400, "screening_failed", "the request could not be screened and was refused")


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 1e308
