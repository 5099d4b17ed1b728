"""Questions of gist: the title or one-line summary of a real text, from packages and the standard library."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from experiments.compression.items import Item, Split, alternating, shuffled
from experiments.compression.knowledge_base import packaged, titled

GIST = "gist"
_MIN_CHARACTERS, _MAX_CHARACTERS = 280, 800


def titles(split: Split) -> Iterator[Item]:
    """Texts whose author gave them a title or summary, which the text itself does not repeat.

    Those of the development split are documents of a bank and modules of the standard library; those of the test
    split describe benchmarks and installed packages.
    """
    if split == "test":
        return alternating(_benchmarks(), _packages())
    return alternating(titled(), _modules())


def _item(text: str, question: str, answer: str, cluster: str) -> Item | None:
    text = _cut(text)
    if len(text) < _MIN_CHARACTERS or answer.rstrip(".").lower() in text.lower():
        return None
    return Item(text=text, question=question, answer=answer, task=GIST, cluster=cluster)


def _cut(text: str) -> str:
    """Whole sentences from the beginning."""
    if len(text) <= _MAX_CHARACTERS:
        return text.strip()
    sentences = re.findall(r".*?[.!?:](?=\s|$)\s*", text[:_MAX_CHARACTERS], re.DOTALL)
    return "".join(sentences).strip()


def _plain(markdown: str) -> str:
    """Paragraphs of prose, without marks of Markdown."""
    markdown = re.sub(r"<!--.*?-->|<[^>]+>|```.*?```|!\[[^\]]*\]\([^)]*\)", " ", markdown, flags=re.DOTALL)
    markdown = re.sub(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])", r"\1", markdown)
    markdown = re.sub(r"``?([^`]*)``?(?:_+)?", r"\1", markdown).replace("**", "")
    paragraphs = (re.sub(r"\s+", " ", part).strip() for part in re.split(r"\n\s*\n", markdown))
    return "\n".join(
        part for part in paragraphs
        if len(part.split()) >= 8 and part[0].isalpha() and part[-1] in ".!?:" and "://" not in part and "|" not in part
    )  # fmt: skip


def _benchmarks() -> Iterator[Item]:
    for name in shuffled((path.parent.name for path in packaged("").glob("*/eval.yaml")), "benchmarks"):
        folder = packaged(name)
        described, readme = (
            yaml.safe_load((folder / "eval.yaml").read_text(encoding="utf-8")),
            folder / "README.md",
        )
        if readme.is_file():
            text = _plain(readme.read_text(encoding="utf-8").split("## Usage")[0])
            title = str(described["title"]).split(": ", 1)[-1]
            if len(title.split()) >= 3 and (
                item := _item(text, "Give a title for the text.", title, f"benchmark {name}")
            ):
                yield item


def _packages() -> Iterator[Item]:
    found = {str(each.metadata["Name"]).lower(): each for each in distributions()}
    for name in shuffled(found, "packages"):
        metadata: Any = found[name].metadata
        summary, description = metadata["Summary"], metadata.get("Description") or metadata.get_payload()
        if summary and len(summary.split()) >= 4 and isinstance(description, str) and name != "embedspace":
            question = f"What is {name}, in one line?"
            if item := _item(_plain(description.split("```")[0]), question, summary, f"package {name}"):
                yield item


def _modules() -> Iterator[Item]:
    folder = Path(os.__file__).parent
    for name in shuffled((path.stem for path in folder.glob("[a-z]*.py")), "modules"):
        documentation = (
            ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) or ""
        )
        summary, _, text = documentation.partition("\n")
        text = re.split(r"\n.*(?:>>>|={3}|-{3})", text)[0]
        if len(summary.split()) >= 3 and (
            item := _item(text, "Summarise the text in one line.", summary, f"module {name}")
        ):
            yield item
