"""What compression buys on a server, tokens a second and the time to the first token, and what it costs to compute."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedspace.compression import Method
from embedspace.metrics import mean_interval
from embedspace.reporting import Line, line_figure
from experiments.benchmarks.experiment import Measurement, timed

if TYPE_CHECKING:
    from embedspace import EmbeddingSpace, PromptEmbeds
    from embedspace.engines import VLLMClient

RATIOS = (1.0, 2.0, 4.0, 8.0, 16.0)
ROWS = 1024
"""Content rows of a prompt before compression."""
PROMPTS = 8
"""Answered together in a round, for the throughput."""
NEW_TOKENS = 16
METHOD: Method = "salience"


@dataclass(frozen=True)
class Served:
    """One ratio in one round."""

    computing: float
    """Seconds to compress one prompt."""
    first_token: float
    """Seconds from a prompt to its only new token, nothing else on the server."""
    throughput: float
    """New tokens a second, prompts answered together."""


def compressed(model: str, rounds: int, figures: Path) -> Iterator[Measurement]:
    """Each ratio against the whole prompt on a vLLM server, on prompts that no round shares with another.

    Raises:
        EngineError: the server did not start, or failed.
        OSError: the figure's folder cannot be written.
    """
    from embedspace import EmbeddingSpace
    from embedspace.engines import VLLMClient, VLLMServer

    space = EmbeddingSpace.from_pretrained(model)
    with VLLMServer(model) as server, VLLMClient(server.url) as client:
        # The first round warms up everything and is left out.
        measured = [
            {ratio: served(client, space, ratio, number) for ratio in RATIOS} for number in range(rounds + 1)
        ][1:]
    yield from gains(measured)
    write_figure(measured, figures / "compress_served.svg")


def served(client: VLLMClient, space: EmbeddingSpace, ratio: float, number: int) -> Served:
    """One ratio: compress, ask for a first token, then ask for whole answers to other prompts."""
    from embedspace import compress
    from embedspace.engines import Sampling

    prompts = passages(space, number * len(RATIOS) + RATIOS.index(ratio))
    began = time.perf_counter()
    shorter = [compress(prompt, ratio=ratio, method=METHOD, space=space) for prompt in prompts]
    computing = (time.perf_counter() - began) / len(prompts)
    single = timed(client, shorter[:1], Sampling(max_tokens=1))
    together = timed(client, shorter[1:], Sampling(max_tokens=NEW_TOKENS))
    return Served(computing, single.seconds, together.tokens / together.seconds)


def gains(measured: Sequence[dict[float, Served]]) -> Iterator[Measurement]:
    """The ratios' figures to those of the whole prompt, round by round."""
    for ratio in RATIOS[1:]:
        pairs = [(each[ratio], each[1.0]) for each in measured]
        own, whole = (
            {
                name: statistics.median(getattr(pair[side], name) for pair in pairs)
                for name in ("computing", "first_token", "throughput")
            }
            for side in (0, 1)
        )
        yield Measurement(
            f"prompt of {ROWS:,} rows compressed {ratio:g} times, first-token time to that of the whole",
            mean_interval([(a.computing + a.first_token) / b.first_token for a, b in pairs]),
            "below 1",
            f"{1e3 * own['first_token']:.0f} ms and {1e3 * own['computing']:.1f} ms for compressing it ({METHOD}) "
            f"against {1e3 * whole['first_token']:.0f} ms",
        )
        yield Measurement(
            f"prompts of {ROWS:,} rows compressed {ratio:g} times, throughput to that of the whole",
            mean_interval([a.throughput / b.throughput for a, b in pairs]),
            "above 1",
            f"{own['throughput']:.0f} against {whole['throughput']:.0f} tokens a second, {PROMPTS} prompts together, "
            f"up to {NEW_TOKENS} new tokens each",
        )


def write_figure(measured: Sequence[dict[float, Served]], path: Path) -> None:
    """Both gains against the ratio, as factors of the whole prompt's."""
    sooner = {
        ratio: mean_interval(
            [each[1.0].first_token / (each[ratio].computing + each[ratio].first_token) for each in measured]
        )
        for ratio in RATIOS
    }
    more = {
        ratio: mean_interval([each[ratio].throughput / each[1.0].throughput for each in measured])
        for ratio in RATIOS
    }
    drawn = line_figure(
        [Line("first token sooner, compressing included", sooner), Line("tokens a second", more)],
        x_label="times fewer content rows", y_label="factor", log_x=True,
        caption=f"Prompts of {ROWS:,} rows on a vLLM server, against the whole prompt; bands are 95% intervals",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drawn.stand_alone())


def passages(space: EmbeddingSpace, seed: int) -> list[PromptEmbeds]:
    """One prompt for the first token and those that are answered together; no two begin with the same words."""
    chance = random.Random(seed)
    words = [space.tokenizer.decode([token]).strip() for token in range(500, min(8000, space.vocab_size))]
    words = [word for word in words if word.isalpha() and word.isascii()]
    made = []
    for _ in range(PROMPTS + 1):
        prompt = space.embed(" ".join(chance.choices(words, k=ROWS)))
        made.append(prompt.first_rows(ROWS))
    return made
