"""Readers of benign texts."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from experiments.safety.packages import pieces, rows_of, strings_in


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
            role = row["user_scenario"]["instructions"]
            yield role if isinstance(role, str) else "\n".join(str(value) for value in role.values() if value)


def system_prompts(folder: Path) -> Iterator[str]:
    """System prompts of applications, many of which warn of injections."""
    for path in sorted((folder / "b3/data/threat_snapshots").rglob("*.json")):
        yield from pieces(json.loads(path.read_text())["system_prompt"])


ON_ATTACKS = frozenset({
    "agentdojo", "agentharm", "agent_threat_bench", "agentic_misalignment", "b3", "coconot", "cyberseceval_2",
    "cyberseceval_3", "cyberseceval_4", "fortress", "ipi_coding_agent", "make_me_pay", "makemesay", "mask", "sosbench",
    "strong_reject", "xstest",
})  # fmt: skip


def handbooks(folder: Path, on_attacks: bool, half: int | None = None, whole: bool = False) -> Iterator[str]:
    """Pages that describe evaluations, either on attacks and refusals or all others; optionally every second.

    In pieces, or ``whole``.
    """
    for number, name in enumerate(_names(folder, on_attacks)):
        if half in (None, number % 2):
            text = (folder / name / "README.md").read_text()
            text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
            yield from [text] if whole else pieces(text)


def prompts_in_code(folder: Path, half: int) -> Iterator[str]:
    """Long strings in the code of evaluations that are not on attacks, of every second one: prompts, rules, notes."""
    for number, name in enumerate(_names(folder, on_attacks=False)):
        if number % 2 == half:
            for path in sorted((folder / name).rglob("*.py")):
                yield from (text for text in strings_in(path) if len(text.split()) > 12)


def descriptions(folder: Path) -> Iterator[str]:
    """Docstrings of an attack scanner's modules, classes and functions."""
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


def tasks(folder: Path) -> Iterator[str]:
    """Tasks of a simulated company for its agent, including passwords."""
    for path in sorted((folder / "theagentcompany/tasks").glob("*/eval.yaml")):
        for variant in yaml.load(path.read_text(), yaml.CSafeLoader)["variants"].values():
            yield variant["prompt"]


def excerpts(folder: Path) -> Iterator[str]:
    """Pieces of a bank's knowledge base."""
    for text in documents(folder):
        yield from (piece.strip() for piece in pieces(text, 350) if 60 < len(piece) < 700)


_SAMPLES = {
    "count": "3",
    "counter": "7",
    "days": "14",
    "site_name": "example.org",
    "current_site": "example.org",
}


def interface(folder: Path, locale: str, shortest: int = 12) -> Iterator[str]:
    """Messages and mails of a web framework in a language, from its catalogues of translations.

    Placeholders are filled with an example; ``shortest`` is in characters.
    """
    for path in sorted(folder.glob(f"**/locale/{locale}/LC_MESSAGES/django.po")):
        for text in _translations(path.read_text()):
            words = re.sub(
                r"<[^>]+>", "", re.sub(r"%\((\w+)\)[sd]", lambda name: _SAMPLES.get(name[1], "Anna"), text)
            )
            if len(words) >= shortest and "%" not in words and "{" not in words:
                yield words


def _translations(catalogue: str) -> Iterator[str]:
    for entry in catalogue.split("\n\n")[1:]:
        if "#, fuzzy" not in entry and (
            found := re.search(r'msgstr (".*?"(?:\n".*?")*)$', entry, re.DOTALL | re.MULTILINE)
        ):
            yield "".join(ast.literal_eval(line) for line in found[1].split("\n"))


def judges(folder: Path) -> Iterator[str]:
    """Prompts for models that compare answers."""
    for path in sorted((folder / "evaluators_configs").rglob("*.txt")):
        yield path.read_text()


def talk(folder: Path, languages: Sequence[str]) -> Iterator[str]:
    """Exchanges of small talk."""
    for language in languages:
        for path in sorted((folder / "data" / language).glob("*.yml")):
            for turns in yaml.load(path.read_text(), yaml.CSafeLoader).get("conversations") or []:
                yield " ".join(map(str, turns)) if isinstance(turns, list) else str(turns)


def _names(folder: Path, on_attacks: bool) -> list[str]:
    names = [path.parent.name for path in sorted(folder.glob("*/README.md"))]
    return [name for name in names if (name in ON_ATTACKS) == on_attacks]
