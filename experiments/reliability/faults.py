"""Prompts through faults of the network and the server: is each answered once, and right?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.reliability.fault_proxy import FAULTS, Fault, FaultProxy
from experiments.reliability.rows import Row, compared, listed
from experiments.reliability.small_server import SmallServer, right_answer

if TYPE_CHECKING:
    from embedspace.runs import Case

DISRUPTIVE: tuple[Fault, ...] = ("refused connections", "server killed")
"""Faults that affect every request in flight; a quarter as many of them."""


def fault_rows(folder: Path, prompts: int, faults: int) -> Iterator[Row]:
    """Prompts through the fault proxy to a server that is killed and started again, ``faults`` of each kind."""
    from embedspace.engines import Sampling, VLLMClient
    from embedspace.runs import Run, execute, read_records

    cases = [case(number) for number in range(prompts)]
    wanted = Counter({fault: faults // 4 if fault in DISRUPTIVE else faults for fault in FAULTS})
    with (
        SmallServer(0.002) as server,
        FaultProxy(server.url, wanted, length=prompts, restart=server.restart) as proxy,
        Run.open(folder, {}, fingerprint="soak", fresh=True) as run,
    ):
        client = partial(VLLMClient, timeout=3, max_retries=50, prompts_per_request=1, max_concurrency=16)
        outcome = execute(run, lambda: client(proxy.url), cases, Sampling(max_tokens=1), title="faults")
    found = [(record.key, record.text) for record in read_records(run.records_path)]
    counts = compared(found, {case.key: answer_to(case) for case in cases})
    yield Row(
        f"{prompts:,} prompts through {sum(proxy.made.values())} faults",
        counts.in_words(),
        f"{listed(proxy.made)}. Sent again, by what came before: {listed(outcome.retries)}",
        counts.clean and proxy.made == wanted,
        "each once and right",
    )


def case(number: int) -> Case:
    """A case whose rows differ from those of all others, and so its answer."""
    import torch

    from embedspace import PromptEmbeds, Recipe
    from embedspace.runs import Case

    rows = torch.full((2, 4), float(number))
    recipe = Recipe.of("soak", {"number": number})
    return Case(f"case {number}", PromptEmbeds(rows, torch.ones(2, dtype=torch.bool), "soak", recipe))


def answer_to(case: Case) -> str:
    """The small server's answer to it."""
    from embedspace import PromptEmbeds, encode_prompt_embeds

    assert isinstance(case.prompt, PromptEmbeds)
    return f"{right_answer(encode_prompt_embeds(case.prompt))}.0"
