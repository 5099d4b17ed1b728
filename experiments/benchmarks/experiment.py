"""Benchmarks: the toolkit against the ordinary way, on the same work, side by side, in one run."""

from __future__ import annotations

import base64
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embedspace._util.progress import progress
from embedspace._util.provenance import provenance
from embedspace.metrics import Interval, mean_interval
from experiments.benchmarks.report import as_markdown, updated

if TYPE_CHECKING:
    from embedspace import EmbeddingSpace
    from embedspace.engines import Prompt, Sampling, VLLMClient


Part = Literal[
    "cold_start",
    "wire",
    "server",
    "cache",
    "prefix",
    "corpus",
    "scaling",
    "transforms",
    "compressed",
    "projector",
    "projector_gpu",
    "safety",
    "gateway",
    "gateway_alone",
]

QUESTION = "What is the capital of France?"

ORDINARY_START = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({folder!r})
model = AutoModelForCausalLM.from_pretrained({folder!r})
ids = tokenizer.apply_chat_template({messages!r}, add_generation_prompt=True, return_tensors="pt")["input_ids"]
with torch.no_grad():
    print(model.get_input_embeddings()(ids)[0].shape)
"""
EMBEDSPACE_CHAT = """
from embedspace import EmbeddingSpace
print(EmbeddingSpace.from_pretrained({folder!r}).embed_chat({messages!r}).vectors.shape)
"""
EMBEDSPACE_TEXT = """
from embedspace import EmbeddingSpace
print(EmbeddingSpace.from_pretrained({folder!r}).embed({messages!r}[0]["content"]).vectors.shape)
"""

# The child tells its own peak: what the system keeps for its parent includes the parent's size at the fork.
TELL_PEAK = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Measurement:
    """One claim with the figure that was measured for it."""

    name: str
    ratio: Interval
    """Of the toolkit's figure to the other's, round by round."""
    aim: str
    detail: str


@dataclass(frozen=True)
class Benchmark:
    """Which benchmarks run, and how often.

    Both sides of a comparison take turns, so that a machine whose speed drifts is the same for both; the
    ratio is taken round by round and its mean has a bootstrap interval.
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
    parts: Sequence[Part]
    """What is measured."""

    def run(self, folder: Path) -> str:
        """Measure everything, write the records into ``folder`` and the table into ``page``."""
        folder.mkdir(parents=True, exist_ok=True)
        # They take their row type from here.
        from experiments.benchmarks.cache import cache
        from experiments.benchmarks.compressed import compressed
        from experiments.benchmarks.corpus import corpus
        from experiments.benchmarks.gateway import gateway, gateway_alone
        from experiments.benchmarks.prefix import prefix
        from experiments.benchmarks.projector import projector, projector_gpu
        from experiments.benchmarks.safety import safety
        from experiments.benchmarks.scaling import scaling
        from experiments.benchmarks.transforms import transforms

        figures = Path(self.page).parent / "figures"
        ways: dict[Part, Callable[[], Iterable[Measurement]]] = {
            "cold_start": self.cold_start,
            "wire": self.wire,
            "server": self.server,
            "cache": lambda: cache(self.model),
            "prefix": lambda: prefix(self.model, self.rounds),
            "corpus": lambda: corpus(self.model),
            "projector": lambda: projector(self.model, self.rounds),
            "projector_gpu": lambda: projector_gpu(self.model, self.rounds),
            "scaling": lambda: scaling(self.model),
            "transforms": lambda: transforms(self.model, figures),
            "compressed": lambda: compressed(self.model, self.rounds, figures),
            "safety": lambda: safety(self.model),
            "gateway": lambda: gateway(self.model, self.filter, self.rounds),
            "gateway_alone": lambda: gateway_alone(
                self.model, self.filter, self.rounds, self.gateway_requests
            ),
        }
        origin, page, rows = provenance(), Path(self.page), list[Measurement]()
        records = folder / "measurements.jsonl"
        with progress("benchmarks", len(self.parts)) as advance, records.open("w") as file:
            # Part by part: what was measured stays where a later part fails or is stopped.
            for part in self.parts:
                measured = list(ways[part]())
                file.writelines(json.dumps({"measurement": asdict(row), **origin}) + "\n" for row in measured)
                file.flush()
                known = page.read_text() if page.is_file() else ""
                page.write_text(updated(known, {part: measured}, origin, self.model))
                rows += measured
                advance()
        return f"{as_markdown(rows)}\nwritten to {self.page} and {records}"

    def cold_start(self) -> Iterator[Measurement]:
        """First prompt embedding in a fresh process, imports included."""
        from embedspace.models import resolve

        messages = [{"role": "user", "content": QUESTION}]
        values = {"folder": str(resolve(self.model)), "messages": messages}
        ways = {
            name: code.format(**values)
            for name, code in (
                ("ordinary", ORDINARY_START),
                ("chat", EMBEDSPACE_CHAT),
                ("text", EMBEDSPACE_TEXT),
            )
        }
        for code in ways.values():
            fresh_process(code)  # files in the page cache for all
        rounds = [{name: fresh_process(code) for name, code in ways.items()} for _ in range(self.starts)]
        for name, label in (("chat", "embed_chat"), ("text", "embed")):
            for figure, what, aim in ((0, "time", "at most 0.4"), (1, "peak memory", "at most 0.65")):
                ratio = mean_interval([each[name][figure] / each["ordinary"][figure] for each in rounds])
                own, other = (
                    statistics.median(each[way][figure] for each in rounds) for way in (name, "ordinary")
                )
                unit, digits = ("s", 2) if what == "time" else ("MB", 0)
                yield Measurement(
                    f"first prompt in a fresh process ({label}), {what}",
                    ratio,
                    aim,
                    f"{own:.{digits}f} {unit} against {other:.{digits}f} {unit} with AutoTokenizer and "
                    f"AutoModelForCausalLM, median of {self.starts}",
                )

    def wire(self) -> Iterator[Measurement]:
        """Encoding and decoding against plain ``torch.save`` and base64, and bytes against float32."""
        import torch

        from embedspace import decode_prompt_embeds, encode_prompt_embeds

        for rows, hidden in ((32, 576), (512, 576), (512, 4096)):
            vectors = torch.randn(rows, hidden).bfloat16()
            text = encode_prompt_embeds(vectors)
            for name, own, other in (
                ("encoding", lambda v=vectors: encode_prompt_embeds(v), lambda v=vectors: plain_encode(v)),
                ("decoding", lambda t=text: decode_prompt_embeds(t), lambda t=text: plain_decode(t)),
            ):
                pairs = [(rate(own), rate(other)) for _ in range(7)]
                yield Measurement(
                    f"{name} {rows} x {hidden}, rate",
                    mean_interval([a / b for a, b in pairs]),
                    "at least 0.5",
                    f"{statistics.median(a for a, _ in pairs):,.0f} a second against "
                    f"{statistics.median(b for _, b in pairs):,.0f} of torch.save or load and base64",
                )
            share = len(text) / len(encode_prompt_embeds(vectors, torch.float32))
            yield Measurement(
                f"bytes on the wire {rows} x {hidden}",
                Interval(share, share, share, 1),
                "half",
                f"{len(text):,} characters in bfloat16 against float32",
            )

    def server(self) -> Iterator[Measurement]:
        """Throughput through a real vLLM server: embeddings against token ids, many against one at a time."""
        from embedspace import EmbeddingSpace
        from embedspace.engines import Sampling, VLLMClient, VLLMServer

        space = EmbeddingSpace.from_pretrained(self.model)
        ids, prompts = self._prompts(space)
        sampling = Sampling(max_tokens=self.new_tokens)
        with VLLMServer(self.model) as server, VLLMClient(server.url) as client:
            timed(client, prompts, sampling)
            timed(client, ids, sampling)
            rounds = [
                (timed(client, prompts, sampling), timed(client, ids, sampling)) for _ in range(self.rounds)
            ]
            single = sum(timed(client, [prompt], sampling).seconds for prompt in prompts)
        size = f"{self.prompts} prompts of 64 rows and up to {self.new_tokens} new tokens"
        yield Measurement(
            "throughput of embeddings to that of token ids",
            mean_interval([a.tokens / a.seconds / (b.tokens / b.seconds) for a, b in rounds]),
            "at least 0.97",
            f"{statistics.median(a.tokens / a.seconds for a, _ in rounds):.0f} against "
            f"{statistics.median(b.tokens / b.seconds for _, b in rounds):.0f} tokens a second; {size}",
        )
        yield Measurement(
            f"{self.prompts} prompts together, time to one at a time",
            mean_interval([a.seconds / single for a, _ in rounds]),
            "at most 0.2",
            f"{statistics.median(a.seconds for a, _ in rounds):.1f} s against {single:.1f} s",
        )
        yield Measurement(
            "client's own processor time to wall time",
            mean_interval([a.own_seconds / a.seconds for a, _ in rounds]),
            "under 0.05",
            f"{statistics.median(a.own_seconds for a, _ in rounds):.2f} s in "
            f"{statistics.median(a.seconds for a, _ in rounds):.1f} s",
        )

    def _prompts(self, space: EmbeddingSpace) -> tuple[list[list[int]], list[Prompt]]:
        """Random prompts of 64 tokens, as ids and as embeddings, no two with a prefix that a cache could share."""
        import torch

        from embedspace import PromptEmbeds, Recipe

        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(100, space.vocab_size, (self.prompts, 64), generator=generator).tolist()
        made = [
            PromptEmbeds(space.lookup(row), torch.ones(64).bool(), space.fingerprint, Recipe.of("ids", {}))
            for row in ids
        ]
        return ids, list(made)


@dataclass(frozen=True)
class Timed:
    """One pass over the prompts."""

    seconds: float
    own_seconds: float
    """Processor time of this process."""
    tokens: int


def timed(client: VLLMClient, prompts: Sequence[Prompt], sampling: Sampling) -> Timed:
    """One pass, from the first prompt to the last completion."""
    began, own = time.perf_counter(), time.process_time()
    completions = list(client.generate(prompts, sampling))
    seconds, own_seconds = time.perf_counter() - began, time.process_time() - own
    if failed := [completion.error for completion in completions if completion.error]:
        raise ValueError(f"{len(failed)} prompts of a benchmark failed: {failed[0]}")
    return Timed(seconds, own_seconds, sum(len(completion.token_ids) for completion in completions))


def fresh_process(code: str) -> tuple[float, float]:
    """Seconds and peak memory in MB of a Python process that runs ``code``.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + TELL_PEAK], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    return seconds, int(done.stdout.split()[-2]) * 1024 / 1e6


def rate(call: Callable[[], object], seconds: float = 0.3) -> float:
    """Calls a second."""
    call()
    began, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        call()
        calls += 1
    return calls / passed


def plain_encode(vectors: object) -> str:
    """The obvious way of writing a payload."""
    import torch

    buffer = io.BytesIO()
    torch.save(vectors, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def plain_decode(text: str) -> object:
    """The obvious way of reading one."""
    import torch

    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)
