"""Embed corpus: a data set, Parquet, JSON Lines or text as sharded prompt embeddings, on one machine or a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedspace.corpus import CorpusSpec, Payload, Runner, Template, make_corpus, open_source


@dataclass(frozen=True)
class EmbedCorpus:
    """One corpus, made or resumed."""

    model: str
    source: str | Sequence[str]
    """Files, a folder of them or of ``Dataset.save_to_disk``, or a data set's id on the hub."""
    column: str
    """That holds the text or the messages; without meaning for plain text files."""
    split: str
    what: Payload
    template: Template
    shard_size: int
    """Texts of a shard."""
    max_tokens: int | None
    """A longer prompt is refused; None is the model's context length."""
    processes: int | None
    """Workers, on a cluster actors; None for one a core."""
    runner: Runner
    fresh: bool
    variables: Mapping[str, Any] | None = None
    """Of the chat template."""

    def run(self, folder: Path) -> str:
        """Make every shard that is missing or damaged.

        Raises:
            ValueError: some texts are no prompts; all others are there.
        """
        source = open_source(self.source, column=self.column, split=self.split, stride=self.shard_size)
        spec = CorpusSpec(
            self.model,
            source,
            folder.absolute(),
            self.what,
            self.template,
            self.shard_size,
            self.max_tokens,
            self.variables,
        )
        made = make_corpus(spec, processes=self.processes, runner=self.runner, fresh=self.fresh)
        again = f", {made.damaged} of them because they were damaged" if made.damaged else ""
        summary = (
            f"{made.texts:,} texts, {made.rows:,} rows, {made.size / 1e6:,.1f} MB in {made.shards} shards "
            f"({made.made} made now{again}): {folder / 'manifest.json'}"
        )
        if made.refused:
            raise ValueError(
                f"{made.refused} of {made.texts} texts are no prompts; the manifest holds the reasons (refused), all "
                f"others are there. {summary}"
            )
        return summary
