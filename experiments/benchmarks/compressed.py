"""What compression buys on a server, tokens a second and the time to the first token, and what it costs to compute."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedspace import EmbeddingSpace, PromptEmbeds, compress
from embedspace.compression import Method
from embedspace.engines import Sampling, VLLMClient, VLLMServer
from embedspace.reporting import Line, line_figure
from experiments.benchmarks.measurement import Measurement, medians, ratio, seconds, timed
from experiments.benchmarks.workloads import vocabulary_words

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
    space = EmbeddingSpace.from_pretrained(model)
    with VLLMServer(model) as server, VLLMClient(server.url) as client:
        # The first round warms up everything and is left out.
        measured = [
            {factor: served(client, space, factor, number) for factor in RATIOS}
            for number in range(rounds + 1)
        ][1:]
    yield from gains(measured)
    write_figure(measured, figures / "compress_served.svg")


def served(client: VLLMClient, space: EmbeddingSpace, factor: float, number: int) -> Served:
    """One ratio: compress, ask for a first token, then ask for whole answers to other prompts."""
    prompts = passages(space, number * len(RATIOS) + RATIOS.index(factor))
    shorter: list[PromptEmbeds] = []
    computing = seconds(
        lambda: shorter.extend(
            compress(prompt, ratio=factor, method=METHOD, space=space) for prompt in prompts
        )
    )
    single = timed(client, shorter[:1], Sampling(max_tokens=1))
    together = timed(client, shorter[1:], Sampling(max_tokens=NEW_TOKENS))
    return Served(computing / len(prompts), single.seconds, together.throughput)


def gains(measured: Sequence[dict[float, Served]]) -> Iterator[Measurement]:
    """The ratios' figures to those of the whole prompt, round by round."""
    for factor in RATIOS[1:]:
        rounds = [(each[factor], each[1.0]) for each in measured]
        computing, first_token, whole = medians(
            (a.computing, a.first_token, b.first_token) for a, b in rounds
        )
        throughputs = [(a.throughput, b.throughput) for a, b in rounds]
        own, other = medians(throughputs)
        yield Measurement(
            f"prompt of {ROWS:,} rows compressed {factor:g} times, first-token time to that of the whole",
            ratio([(a.computing + a.first_token, b.first_token) for a, b in rounds]),
            "below 1",
            f"{1e3 * first_token:.0f} ms and {1e3 * computing:.1f} ms for compressing it ({METHOD}) against "
            f"{1e3 * whole:.0f} ms",
        )
        yield Measurement(
            f"prompts of {ROWS:,} rows compressed {factor:g} times, throughput to that of the whole",
            ratio(throughputs),
            "above 1",
            f"{own:.0f} against {other:.0f} tokens a second, {PROMPTS} prompts together, up to {NEW_TOKENS} new tokens "
            "each",
        )


def write_figure(measured: Sequence[dict[float, Served]], path: Path) -> None:
    """Both gains against the ratio, as factors of the whole prompt's."""
    sooner, more = {}, {}
    for factor in RATIOS:
        rounds = [(each[factor], each[1.0]) for each in measured]
        sooner[factor] = ratio([(b.first_token, a.computing + a.first_token) for a, b in rounds])
        more[factor] = ratio([(a.throughput, b.throughput) for a, b in rounds])
    drawn = line_figure(
        [Line("first token sooner, compressing included", sooner), Line("tokens a second", more)],
        x_label="times fewer content rows", y_label="factor", log_x=True,
        caption=f"Prompts of {ROWS:,} rows on a vLLM server, against the whole prompt; bands are 95% intervals",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drawn.stand_alone())


def passages(space: EmbeddingSpace, seed: int) -> list[PromptEmbeds]:
    """One prompt for the first token and those that are answered together; no two begin with the same words."""
    rng = random.Random(seed)
    words = [word for word in vocabulary_words(space) if word.isalpha() and word.isascii()]
    texts = (" ".join(rng.choices(words, k=ROWS)) for _ in range(PROMPTS + 1))
    return [space.embed(text, special_tokens=False).first_rows(ROWS) for text in texts]
