"""Scale: which resource is the bottleneck, from measured costs, by arithmetic and by a simulation of the queue."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from embedspace._util.files import write_json
from embedspace._util.markdown import markdown_table

DAY = 86_400.0


@dataclass(frozen=True)
class Costs:
    """What one prompt costs, and what there is of each resource."""

    prompt_rows: int
    new_tokens: int
    hidden_size: int
    bytes_per_value: int
    client_seconds: float
    """Processor time of the client for one prompt: embedding, encoding, the request and its answer."""
    client_cores: int
    network_bytes_per_second: float
    """From the client's machine to all servers together."""
    server_tokens_per_second: float
    """New tokens of one server under full load."""
    server_slots: int
    """Prompts that a server works on at a time."""
    disk_bytes_per_second: float
    spread: float
    """Standard deviation of the logarithm of a prompt's length of answer."""

    def payload_bytes(self) -> float:
        """Characters of one prompt on the wire: base64 is four for three."""
        return self.prompt_rows * self.hidden_size * self.bytes_per_value * 4 / 3

    def rates(self, servers: int) -> dict[str, float]:
        """Prompts a second that each resource alone allows."""
        return {
            "servers": servers * self.server_tokens_per_second / self.new_tokens,
            "client": self.client_cores / self.client_seconds,
            "network": self.network_bytes_per_second / self.payload_bytes(),
            "disk": self.disk_bytes_per_second / (self.payload_bytes() * 3 / 4),
        }

    def bottleneck(self, servers: int) -> tuple[str, float]:
        """The bottleneck, and the prompts per second that it allows. The disk counts where a corpus is stored."""
        rates = {name: rate for name, rate in self.rates(servers).items() if name != "disk"}
        name = min(rates, key=rates.__getitem__)
        return name, rates[name]


@dataclass(frozen=True)
class Queue:
    """What a simulation of some prompts showed."""

    servers: int
    prompts_per_second: float
    median_seconds: float
    """From the client's beginning with a prompt to its answer."""
    slowest_seconds: float
    """99th percentile."""
    busy: Mapping[str, float]
    """Share of the time that client, network and servers worked."""


def simulate(costs: Costs, servers: int, prompts: int, seed: int) -> Queue:
    """A queue of client cores, one network and the servers' slots, each prompt in turn to the first free slot.

    The client begins a prompt as soon as a core is free and fewer prompts are under way than there are slots, as a
    client with back-pressure does.
    """
    rng = random.Random(seed)
    mean = costs.new_tokens * costs.server_slots / costs.server_tokens_per_second
    slots = [0.0] * (servers * costs.server_slots)
    cores = [0.0] * costs.client_cores
    network_free = 0.0
    wire = costs.payload_bytes() / costs.network_bytes_per_second
    took, served = [], 0.0
    for _ in range(prompts):
        core, slot = heapq.heappop(cores), heapq.heappop(slots)
        began = max(core, slot - costs.client_seconds - wire)
        encoded = began + costs.client_seconds
        heapq.heappush(cores, encoded)
        network_free = max(network_free, encoded) + wire
        work = mean * rng.lognormvariate(-(costs.spread**2) / 2, costs.spread)
        ended = max(network_free, slot) + work
        heapq.heappush(slots, ended)
        took.append(ended - began)
        served += work
    whole, took = max(slots), sorted(took)
    busy = {
        "client": prompts * costs.client_seconds / costs.client_cores / whole,
        "network": prompts * wire / whole,
        "servers": served / len(slots) / whole,
    }
    return Queue(servers, prompts / whole, took[len(took) // 2], took[int(len(took) * 0.99)], busy)


@dataclass(frozen=True)
class Scale:
    """The costs as measured, numbers of servers and of prompts, and the size of the simulation."""

    costs: Costs
    servers: Sequence[int]
    prompts: Sequence[int]
    simulated: int
    """Prompts that are simulated for each server."""
    seed: int

    def run(self, folder: Path) -> str:
        """Write ``scale.json`` into ``folder``, and return the table."""
        queues = [simulate(self.costs, count, self.simulated * count, self.seed) for count in self.servers]
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / "scale.json",
            {"costs": asdict(self.costs), "queues": [asdict(queue) for queue in queues]},
        )
        return self.table(queues)

    def table(self, queues: Sequence[Queue]) -> str:
        """One line for each number of servers."""
        counts = [f"{count:.0e} prompts".replace("e+0", "e") for count in self.prompts]
        head = ["servers", "bottleneck", "calculated prompts/s", "simulated prompts/s", "median s", "99% s"]
        rows = []
        for queue in queues:
            name, rate = self.costs.bottleneck(queue.servers)
            simulated = queue.prompts_per_second
            times = [
                f"{rate:,.1f}",
                f"{simulated:,.1f}",
                f"{queue.median_seconds:.1f}",
                f"{queue.slowest_seconds:.1f}",
            ]
            took = [_duration(count / simulated) for count in self.prompts]
            rows.append([queue.servers, name, *times, *took])
        return markdown_table([*head, *counts], rows)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds < 2 * DAY else f"{seconds / DAY:,.1f} days"
