"""Readers of attack texts."""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.safety.packages import assigned, rows_of


def armor(folder: Path, sources: Sequence[str]) -> Iterator[str]:
    """Attacks that prompt-armor collected from these sources."""
    for row in rows_of(folder / "data/attacks/known_attacks.jsonl"):
        if row["source"] in sources:
            yield row["text"]


def in_the_wild(folder: Path) -> Iterator[str]:
    """Jailbreaks that people shared."""
    for row in json.loads((folder / "data/inthewild_jailbreak_llms.json").read_text()):
        yield row if isinstance(row, str) else row["prompt"]


def dan(folder: Path) -> Iterator[str]:
    """The prompts of the DAN family."""
    for path in sorted((folder / "data/dan").glob("*.json")):
        yield from json.loads(path.read_text())


def payloads(folder: Path) -> Iterator[str]:
    """First arguments of the calls of ``Payload`` in a module's text."""
    for node in ast.walk(ast.parse((folder / "payloads.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Payload":
            yield from [str(text.value) for text in node.args[:1] if isinstance(text, ast.Constant)]


def tool_results(folder: Path) -> Iterator[str]:
    """Documents and tool results with an instruction in them."""
    for row in rows_of(folder / "data/attacks.jsonl"):
        if row["family"] not in ("control", "baseline"):
            yield row["injected"]


def prompt_requests(folder: Path) -> Iterator[str]:
    """Requests for the text of the system prompt."""
    for texts in json.loads((folder / "data/sysprompt_extraction/attacks.json").read_text()).values():
        yield from texts


def inboxes(folder: Path) -> Iterator[str]:
    """E-mails with an instruction to the agent that sorts them."""
    for row in rows_of(folder / "agent_threat_bench/data/autonomy_hijack.json"):
        for number in row["attack_email_indices"]:
            mail = row["inbox"][number - 1]
            yield f"{mail['subject']}\n{mail['body']}"


def hijacks(folder: Path, each: int) -> Iterator[str]:
    """Tasks for a model whose input is a random instruction to do something else (Perez and Ribeiro 2022)."""
    known = assigned(ast.parse((folder / "resources/promptinject/prompt_data.py").read_text()).body)
    attacks = known["goal_hikacking_attacks"] | known["prompt_leaking_attacks"]
    orders = [entry["instruction"] for entry in attacks.values()]
    rng = random.Random(0)
    for task in known["openai_playground_prompts"].values():
        for order in rng.sample(orders, each):
            words = rng.choice(sorted(known["rogue_strings"].values()))
            given = task["input"].replace("{user_input}", order.replace("{REPLACE_rogue_string}", words))
            yield f"{task['instruction'][-500:]}{given}"


def latent(folder: Path, probes: Sequence[str], each: int) -> Iterator[str]:
    """Documents with drawn orders to whoever summarises or judges them, ``each`` for a probe."""
    module = ast.parse((folder / "probes/latentinjection.py").read_text())
    marks = assigned(module.body)
    hosts = json.loads((folder / "data/payloads/domains_latentinjection.json").read_text())["payloads"]
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name in probes:
            known = assigned(node.body, marks)
            rng = random.Random(node.name)
            for _ in range(each):
                before, after = rng.choice(known["contexts"]).split(marks["INJECTION_MARKER"])
                payload = rng.choice(known["payloads"]).replace(
                    marks["TRIGGER_MARKER"], rng.choice(known["payload_triggers"] or hosts)
                )
                order = rng.choice(known["injection_instructions"]).replace(marks["PAYLOAD_MARKER"], payload)
                start, stop = rng.choice(known["injection_sep_pairs"][:2])
                yield f"{before[-300:]}{start}{order}{stop}{after[:200]}"


def memories(folder: Path) -> Iterator[str]:
    """Stores of an agent's memory with an instruction in them."""
    for row in rows_of(folder / "agent_threat_bench/data/memory_poison.json"):
        yield "\n".join(f"{key}: {value}" for key, value in row["memory_store"].items())


def repositories(folder: Path) -> Iterator[str]:
    """Issues and files of a repository with an instruction to a coding agent in them."""
    for row in rows_of(folder / "ipi_coding_agent/dataset/samples.json"):
        marks = row["payload_indicator"].split("|") if not row["is_benign"] else []
        carriers = [row["issue_text"], *row["repo_files"].values()]
        yield from [text for text in carriers if any(mark in text for mark in marks)][:1]


def labelled(folder: Path, label: str) -> Iterator[str]:
    """The attacks or the benign texts of a labelled corpus."""
    yield from (row["text"] for row in rows_of(folder / "corpus/injections.jsonl") if row["label"] == label)


def neuralchemy(folder: Path, sources: Sequence[str], label: int) -> Iterator[str]:
    """Texts with this label that the data set neuralchemy took from these sources."""
    import pyarrow.parquet

    for path in sorted((folder / "seed/corpus/external/neuralchemy").glob("*.parquet")):
        for row in pyarrow.parquet.read_table(path, columns=["text", "label", "source"]).to_pylist():
            if row["source"] in sources and row["label"] == label:
                yield row["text"]
