"""The wire format, against plain ``torch.save`` and base64, and its bytes against float32."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from functools import partial

import torch

from embedspace import decode_prompt_embeds, encode_prompt_embeds
from embedspace.metrics import mean_interval
from experiments.benchmarks.measurement import Measurement, medians, random_rounds, rate, ratio

ROUNDS = 7


def wire() -> Iterator[Measurement]:
    """Rates of encoding and decoding, and bytes, at three sizes."""
    for rows, hidden in ((32, 576), (512, 576), (512, 4096)):
        vectors = torch.randn(rows, hidden).bfloat16()
        text = encode_prompt_embeds(vectors)
        for name, own, other in (
            ("encoding", lambda v=vectors: encode_prompt_embeds(v), lambda v=vectors: plain_encode(v)),
            ("decoding", lambda t=text: decode_prompt_embeds(t), lambda t=text: plain_decode(t)),
        ):
            sides = [partial(rate, own), partial(rate, other)]
            pairs = [(a, b) for a, b in random_rounds(sides, ROUNDS)]
            fast, plain = medians(pairs)
            yield Measurement(
                f"{name} {rows} x {hidden}, rate",
                ratio(pairs),
                "at least 0.5",
                f"{fast:,.0f} a second against {plain:,.0f} of torch.save or load and base64",
            )
        yield Measurement(
            f"bytes on the wire {rows} x {hidden}",
            mean_interval([len(text) / len(encode_prompt_embeds(vectors, torch.float32))]),
            "half",
            f"{len(text):,} characters in bfloat16 against float32",
        )


def plain_encode(vectors: object) -> str:
    """A payload as ``torch.save`` and base64 write it."""
    buffer = io.BytesIO()
    torch.save(vectors, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def plain_decode(text: str) -> object:
    """The vectors of such a payload."""
    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)
