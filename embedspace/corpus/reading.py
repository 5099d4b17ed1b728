"""Corpus: prompts read back from shards, one by one or all in order, without loading a shard into memory."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace._util.safetensors_file import open_tensors
from embedspace.corpus.manifest import corpus_folder
from embedspace.corpus.shard import is_whole
from embedspace.corpus.tokens import recipe_of
from embedspace.prompt import PromptEmbeds

if TYPE_CHECKING:
    from embedspace.space import EmbeddingSpace

_MAX_OPEN_SHARDS = 8


class Corpus:
    """A finished corpus: ``corpus[i]`` is the prompt of text ``i``, equal to what the space embeds.

    >>> import tempfile
    >>> from embedspace import EmbeddingSpace
    >>> from embedspace.corpus import CorpusSpec, make_corpus, open_source
    >>> place = Path(tempfile.mkdtemp())
    >>> _ = (place / "texts.txt").write_text("Bread rises.\\nRice swells.\\n")
    >>> source = open_source(str(place / "texts.txt"), stride=64)
    >>> _ = make_corpus(CorpusSpec("smollm2-135m-instruct", source, place / "corpus", what="token_ids"))
    >>> corpus = Corpus(place / "corpus", EmbeddingSpace.from_pretrained("smollm2-135m-instruct"))
    >>> len(corpus), corpus.space.read(corpus[1])
    (2, 'Rice swells.')

    Args:
        folder: that ``make_corpus`` wrote.
        space: the space that the prompts live in.
        check: compare each shard with its digest when it is first read.

    Raises:
        ValueError: no corpus, one that is not finished, or one of another space.
    """

    def __init__(self, folder: str | Path, space: EmbeddingSpace, *, check: bool = True) -> None:
        self.folder = Path(folder)
        self.space = space
        manifest = corpus_folder(self.folder).read()
        if manifest is None or "shards" not in manifest:
            what = "holds no corpus" if manifest is None else "holds a corpus that is not finished"
            raise ValueError(f"{self.folder} {what}; make it with make_corpus or experiment=embed_corpus")
        if manifest["fingerprint"] != space.fingerprint:
            raise ValueError(
                f"{self.folder} holds prompts of the space {manifest['fingerprint']}, and {space.name!r} is "
                f"{space.fingerprint}; open it with the model that it was made for"
            )
        self.manifest: dict[str, Any] = manifest
        self.refused: dict[int, str] = {int(n): reason for n, reason in manifest["refused"].items()}
        self._starts = [0]
        for shard in manifest["shards"]:
            self._starts.append(self._starts[-1] + shard["texts"])
        self._opened = lru_cache(maxsize=_MAX_OPEN_SHARDS)(lambda number: self._open(number, check))

    def __len__(self) -> int:
        """Number of texts, refused ones included."""
        return self._starts[-1]

    def __repr__(self) -> str:
        return f"Corpus({str(self.folder)!r}, {len(self)} texts, {self.manifest['settings']['what']})"

    def __getitem__(self, index: int) -> PromptEmbeds:
        """The prompt of a text.

        Raises:
            IndexError: no such text.
            ValueError: the text was refused, or its shard is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"text {index} is not in [0, {len(self)})")
        if index in self.refused:
            raise ValueError(f"text {index} is no prompt: {self.refused[index]}")
        shard = bisect.bisect_right(self._starts, index) - 1
        opened: _Opened = self._opened(shard)
        return opened.prompt(index - self._starts[shard])

    def __iter__(self) -> Iterator[PromptEmbeds]:
        """The prompts in order, refused texts left out."""
        return (prompt for _, prompt in self.numbered())

    def numbered(self) -> Iterator[tuple[int, PromptEmbeds]]:
        """Number of the text and prompt, in order, refused texts left out."""
        for index in range(len(self)):
            if index not in self.refused:
                yield index, self[index]

    def damaged(self) -> list[str]:
        """Names of the shards that are missing or whose bytes are not those that were written."""
        paths = [self.folder / shard["name"] for shard in self.manifest["shards"]]
        return [path.name for path in paths if not (path.is_file() and is_whole(path))]

    def _open(self, number: int, check: bool) -> _Opened:
        path = self.folder / self.manifest["shards"][number]["name"]
        if not path.is_file() or (check and not is_whole(path)):
            state = "damaged: its bytes are not those that were written" if path.is_file() else "missing"
            raise ValueError(f"{path} is {state}; make the corpus again, which replaces only this shard")
        return _Opened(
            path, self.space, self.manifest["settings"]["template"], self.manifest.get("variables", {})
        )


class _Opened:
    """One shard, memory-mapped."""

    def __init__(
        self, path: Path, space: EmbeddingSpace, template: Any, variables: Mapping[str, object]
    ) -> None:
        file = open_tensors(path, advice="make the corpus again, which replaces only this shard")
        self._tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        self._offsets = file.get_tensor("offsets").tolist()
        self._ends = file.get_tensor("ends").tolist()
        self._space, self._template, self._variables = space, template, variables

    def prompt(self, position: int) -> PromptEmbeds:
        """The prompt at a position of the shard, in memory of its own."""
        import torch

        start, stop = self._offsets[position : position + 2]
        begin, end = self._ends[position : position + 2]
        text = bytes(self._tensors["said"][begin:end].numpy()).decode()
        rows = (
            self._tensors["vectors"][start:stop]
            if "vectors" in self._tensors
            else self._space.table.lookup(self._tensors["ids"][start:stop].long())
        )
        content = (
            self._tensors["content"][start:stop]
            if "content" in self._tensors
            else torch.ones(stop - start, dtype=torch.bool)
        )
        recipe = recipe_of(text, self._template, self._variables)
        return PromptEmbeds(rows, content, self._space.fingerprint, recipe)
