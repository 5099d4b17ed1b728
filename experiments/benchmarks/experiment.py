"""Benchmarks: the toolkit against a baseline, on the same work, in turn, in one run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from embedspace._util.progress import progress
from embedspace._util.provenance import provenance
from experiments.benchmarks.cache import cache
from experiments.benchmarks.cold_start import cold_start
from experiments.benchmarks.compressed import compressed
from experiments.benchmarks.corpus import corpus
from experiments.benchmarks.gateway import gateway, gateway_alone
from experiments.benchmarks.gateway_attacked import gateway_attacked
from experiments.benchmarks.measurement import Measurement
from experiments.benchmarks.prefix import prefix
from experiments.benchmarks.projector import projector
from experiments.benchmarks.projector_training import projector_gpu
from experiments.benchmarks.report import as_markdown, section, updated
from experiments.benchmarks.safety import safety
from experiments.benchmarks.scaling import scaling
from experiments.benchmarks.server import server
from experiments.benchmarks.transforms import transforms
from experiments.benchmarks.wire import wire


@dataclass(frozen=True)
class Benchmark:
    """Which benchmarks run, and how often.

    Both sides of a comparison are measured in every round, so that a machine whose speed drifts is the same for both;
    the ratio is that of their medians.
    """

    model: str
    starts: int
    """Rounds of fresh processes."""
    rounds: int
    """Rounds of requests to the server."""
    prompts: int
    new_tokens: int
    filter: str
    """Saved filter of the gateway, or the name of a shipped one."""
    gateway_requests: int
    """Over which the gateway's memory is watched."""
    page: str
    """File that gets the tables; the sections of parts that were not measured stay."""
    parts: Sequence[str] | None
    """Names of :data:`PARTS`; None measures all but those that need a GPU."""

    def run(self, folder: Path) -> str:
        """Measure everything, write the records into ``folder`` and the tables into ``page``.

        Raises:
            ValueError: a part that does not exist, or one that this machine cannot measure.
        """
        wanted = self.parts or [name for name, part in PARTS.items() if not part.needs_gpu]
        if unknown := [name for name in wanted if name not in PARTS]:
            raise ValueError(f"parts names {', '.join(unknown)}; there are {', '.join(PARTS)}")
        folder.mkdir(parents=True, exist_ok=True)
        origin, page, rows = provenance(), Path(self.page), list[Measurement]()
        titles = {name: part.title for name, part in PARTS.items()}
        records = folder / "measurements.jsonl"
        with progress("benchmarks", len(wanted)) as advance, records.open("w") as file:
            # Part by part: what was measured stays where a later part fails or is stopped.
            for name in wanted:
                measured = list(PARTS[name].measure(self))
                file.writelines(json.dumps({"measurement": asdict(row), **origin}) + "\n" for row in measured)
                file.flush()
                known = page.read_text() if page.is_file() else ""
                made = section(name, measured, origin, self.model, PARTS[name].figure)
                page.write_text(updated(known, titles, {name: made}))
                rows += measured
                advance()
        return f"{as_markdown(rows)}\nwritten to {self.page} and {records}"

    @property
    def figures(self) -> Path:
        """Folder of the page's figures."""
        return Path(self.page).parent / "figures"


@dataclass(frozen=True)
class Part:
    """A benchmark that can be measured alone, and its section of the page."""

    title: str
    measure: Callable[[Benchmark], Iterable[Measurement]]
    figure: str = ""
    """Markdown below the section's table."""
    needs_gpu: bool = False


PARTS: Mapping[str, Part] = {
    "cold_start": Part("First prompt in a fresh process", lambda b: cold_start(b.model, b.starts)),
    "wire": Part("The wire format", lambda _: wire()),
    "server": Part("A vLLM server", lambda b: server(b.model, b.rounds, b.prompts, b.new_tokens)),
    "cache": Part("The embedding cache", lambda b: cache(b.model)),
    "prefix": Part("Shared prefixes", lambda b: prefix(b.model, b.rounds)),
    "corpus": Part("Corpora", lambda b: corpus(b.model)),
    "scaling": Part("Several servers", lambda b: scaling(b.model)),
    "transforms": Part(
        "Transforms",
        lambda b: transforms(b.model, b.figures),
        "![Time of each compression method against the number of rows](figures/compress_time.svg)",
    ),
    "compressed": Part(
        "Compressed prompts on a server",
        lambda b: compressed(b.model, b.rounds, b.figures),
        "![Throughput and first-token time against the compression ratio](figures/compress_served.svg)",
    ),
    "projector": Part("The projector", lambda b: projector(b.model, b.rounds)),
    "projector_gpu": Part(
        "Training the projector on a GPU", lambda b: projector_gpu(b.model, b.rounds), needs_gpu=True
    ),
    "safety": Part("The safety filter", lambda b: safety(b.model)),
    "gateway": Part("The gateway in front of vLLM", lambda b: gateway(b.model, b.filter, b.rounds)),
    "gateway_alone": Part(
        "The gateway alone", lambda b: gateway_alone(b.model, b.filter, b.rounds, b.gateway_requests)
    ),
    "gateway_attacked": Part(
        "The gateway under attack", lambda b: gateway_attacked(b.model, b.filter, rounds=2)
    ),
}
"""Name -> part, in the page's order."""
