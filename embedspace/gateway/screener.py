"""Decoding and screening of requests in a worker; callers' payloads are decoded nowhere else."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from embedspace.engines.guard import Guard, Judgement, admits
from embedspace.gateway.frames import Frame
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.request import CHAT, Piece, parse, pieces
from embedspace.gateway.row_check import RowCheck
from embedspace.gateway.settings import Limits
from embedspace.prompt import PromptEmbeds, Recipe, decode_prompt_embeds, encode_prompt_embeds, preflight
from embedspace.safety.layers import Manifold

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

MAX_BATCH_PROMPTS = 16
"""Prompts from which on no further request joins those that are screened together."""

_MAX_ITEM_BYTES = torch.float64.itemsize
_MAX_CHARACTERS_PER_TOKEN = 32
"""On average over a text; a longer one is refused before it is tokenized."""


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
            verdicts = iter(self._verdicts(prompts, of_one_request=len(batch) == 1))
            return [
                _answer(job, each, verdicts) if isinstance(each, _DecodedRequest) else _refused(job, each)
                for job, each in batch
            ]
        except Exception:  # must not affect the other requests
            if len(batch) > 1:
                return [answer for alone in batch for answer in self._screen([alone])]
            return [_refused(batch[0][0], _screening_failed())]

    @cached_property
    def _row_check(self) -> RowCheck:
        return RowCheck.of(self.filter, self.space)

    @cached_property
    def _template_texts(self) -> list[str]:
        return self._row_check.template_texts

    def _decode(self, job: Frame) -> _DecodedRequest | RefusedError:
        path = job.fields["path"]
        try:
            body = parse(job.body, self.limits)
            found = pieces(path, body, self.limits)
            rows = min(self.limits.rows, job.fields.get("rows") or self.limits.rows)
            decoded = _DecodedRequest(body.get("model"))
            for piece in found:
                if piece.embedded or self.screen_text:
                    self._decode_piece(piece, rows, decoded, in_message=path == CHAT)
            parts = [
                each
                for each, param in zip(decoded.prompts, decoded.params, strict=True)
                if param != "request"
            ]
            if path == CHAT and len(parts) > 1:
                # Parts that are harmless one by one may form an attack together.
                decoded.add("messages", PromptEmbeds.concat([each.to(torch.float32) for each in parts]))
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

    def _decode_piece(self, piece: Piece, rows: int, decoded: _DecodedRequest, *, in_message: bool) -> None:
        if piece.embedded:
            assert isinstance(piece.value, str)
            vectors = self._decode_payload(piece.param, piece.value, rows)
            decoded.require_at_most(self.limits.request_rows, len(vectors))
            self._require_own_rows(piece.param, vectors, in_message)
            piece.container[piece.key] = encode_prompt_embeds(vectors)
            decoded.lengths.append(len(vectors))
        elif piece.value:
            if in_message and isinstance(piece.value, str):
                self._require_no_template_texts(piece.param, piece.value)
            vectors = self._embed(piece.param, piece.value, rows)
            decoded.require_at_most(self.limits.request_rows, len(vectors))
        else:
            return
        content = torch.ones(len(vectors), dtype=torch.bool)
        decoded.add(piece.param, PromptEmbeds(vectors, content, self.space.fingerprint, _RECIPE))

    def _require_own_rows(self, param: str, vectors: Tensor, in_message: bool) -> None:
        match self._row_check.fault(vectors, in_message=in_message):
            case "foreign":
                raise _prompt_refused(param)
            case "template":
                raise _template_token(param)

    def _require_no_template_texts(self, param: str, text: str) -> None:
        """The server would read them as the tokens that separate messages."""
        if any(each in text for each in self._template_texts):
            raise _template_token(param)

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
                if len(value) > rows * _MAX_CHARACTERS_PER_TOKEN:
                    raise RefusedError(
                        400, "invalid_field", f"{param} is longer than {rows} tokens can be", param=param
                    )
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

    def _verdicts(self, prompts: Sequence[PromptEmbeds], of_one_request: bool) -> Sequence[Judgement]:
        """A verdict on each prompt; those on one request end with the first ones of which one is refused."""
        verdicts: list[Judgement] = []
        for start in range(0, len(prompts), MAX_BATCH_PROMPTS):
            part = prompts[start : start + MAX_BATCH_PROMPTS]
            found = self.filter.check_many(part)
            if len(found) != len(part):
                raise ValueError(f"{len(found)} verdicts on {len(part)} prompts")
            verdicts += found
            if of_one_request and not all(map(admits, found)):
                break
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

    def require_at_most(self, rows: int, more: int) -> None:
        """Raises RefusedError if it has more rows in all, with these."""
        count = more + sum(len(prompt) for prompt in self.prompts)
        if count > rows:
            raise RefusedError(
                400,
                "too_many_rows",
                f"the request has {count} rows or more and at most {rows} are allowed; send several requests",
            )

    def add(self, param: str, prompt: PromptEmbeds) -> None:
        self.params.append(param)
        self.prompts.append(prompt)


_RECIPE = Recipe("received")


def _answer(job: Frame, decoded: _DecodedRequest, results: Iterator[Judgement]) -> Frame:
    verdicts = list(itertools.islice(results, len(decoded.prompts)))
    fields: dict[str, Any] = {
        "prompts": len(verdicts),
        "rows": sum(decoded.lengths),
        "longest": max(decoded.lengths, default=0),
        "model": decoded.model,
        # JSON has no infinity.
        "score": max((_finite(verdict.score) for verdict in verdicts), default=None),
        "threshold": max((_finite(verdict.threshold) for verdict in verdicts), default=None),
    }
    for param, verdict in zip(decoded.params, verdicts, strict=False):
        if not admits(verdict):
            refusal = _prompt_refused(param)
            # The first word is the layer's name; the rest may quote content.
            layer = verdict.reason.partition(":")[0][:40]
            return Frame(job.number, fields | {"refusal": refusal.to_dict(), "layer": layer})
    if len(verdicts) != len(decoded.prompts):
        raise ValueError(f"{len(verdicts)} verdicts on {len(decoded.prompts)} prompts")
    return Frame(job.number, fields, decoded.body)


def _serialised(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise RefusedError(
            400, "invalid_json", "a string of the body has half of a surrogate pair and is not valid text"
        ) from None


def _refused(job: Frame, refusal: RefusedError) -> Frame:
    # Before the filter runs, only the first look at rows refuses a prompt.
    layer = {"layer": Manifold.name} if refusal.code == "prompt_refused" else {}
    return Frame(job.number, {"refusal": refusal.to_dict(), **layer})


def _prompt_refused(param: str) -> RefusedError:
    return RefusedError(
        400, "prompt_refused", f"{param} was refused by this server's safety filter", param=param
    )


def _template_token(param: str) -> RefusedError:
    return RefusedError(
        400,
        "template_token",
        f"{param} has a token that separates the messages of a conversation; a message can have content only",
        param=param,
    )


def _screening_failed() -> RefusedError:
    return RefusedError(400, "screening_failed", "the request could not be screened and was refused")


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 1e308
