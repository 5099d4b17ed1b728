"""Sentence encoders: loaded once in a process; texts to unit vectors, in batches, stored on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache as cached
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace._util.progress import loading
from embedspace._util.progress import progress as progress_bar
from embedspace._util.safetensors_file import read_tensors, save_tensors
from embedspace.models import cache_folder, resolve

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DEFAULT_ENCODER = "all-minilm-l6-v2"
_TOKENIZE_BATCH_SIZE = 4096


def load_sentence_encoder(name: str, device: str | None = None) -> Any:
    """A ``SentenceTransformer`` that computes in float32, loaded once in a process.

    Args:
        name: packaged name, local folder or hub id.
        device: as torch names it; by default a GPU where there is one.
    """
    return _loaded(name, device)


@cached
def _loaded(name: str, device: str | None) -> Any:
    from sentence_transformers import SentenceTransformer

    with loading():
        return SentenceTransformer(
            str(resolve(name)), local_files_only=True, device=device, model_kwargs={"dtype": "float32"}
        )


@cached
def _fingerprint(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    names = ("*.safetensors", "tokenizer.json", "config.json", "modules.json", "1_Pooling/*.json")
    for path in sorted(path for pattern in names for path in folder.glob(pattern)):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class SentenceEncoder:
    """A sentence-transformers model whose unit vectors a projector starts from.

    Args:
        name: packaged name, local folder or hub id.
        device: as torch names it; by default a GPU where there is one.

    >>> encoder = SentenceEncoder()
    >>> encoder.encode(["one text", "another text"]).shape
    torch.Size([2, 384])
    """

    def __init__(self, name: str = DEFAULT_ENCODER, *, device: str | None = None) -> None:
        self.name = name
        self.device = device

    def __repr__(self) -> str:
        return f"SentenceEncoder({self.name!r})"

    @cached_property
    def folder(self) -> Path:
        """The local folder of the model."""
        return resolve(self.name)

    @property
    def fingerprint(self) -> str:
        """Identity by content: hash of weights, tokenizer and configuration, computed once in a process."""
        return _fingerprint(self.folder)

    @property
    def model(self) -> Any:
        """The loaded model, one for all encoders of this name and device in the process."""
        return load_sentence_encoder(self.name, self.device)

    @property
    def features(self) -> int:
        """Length of a vector."""
        return int(self.model.get_embedding_dimension())

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int | None = None,
        progress: bool = False,
        cache: bool = False,
    ) -> Float[Tensor, "texts features"]:
        """Unit vectors of texts, float32, on the CPU.

        Args:
            texts: what to encode.
            batch_size: texts that are encoded together; by default 32 on a processor and 1,024 on another device.
            progress: show a bar, or a line now and then where there is no terminal.
            cache: store the vectors of exactly this list in the user's cache folder, and read them from there.

        Raises:
            ValueError: no texts, or one that is empty.
        """
        if isinstance(texts, str):
            raise TypeError(
                f"texts must be a sequence of strings, got the string {texts!r}; put it in a list"
            )
        if not len(texts):
            raise ValueError("there is nothing to encode: texts is empty")
        empty = next((place for place, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise ValueError(f"text {empty} is empty; a sentence vector needs words to stand for")
        path = self._cache_file(texts)
        if cache and path.is_file():
            with suppress(ValueError):  # a damaged file is a miss
                return read_tensors(path, advice="")[0]["vectors"]
        with progress_bar("sentence vectors", len(texts), shown=progress) as advance:
            vectors = sentence_vectors(self.model, texts, batch_size=batch_size, advance=advance)
        if cache:
            save_tensors(path, {"vectors": vectors})
        return vectors

    def _cache_file(self, texts: Sequence[str]) -> Path:
        digest = hashlib.blake2b(f"{self.fingerprint} float32 ".encode(), digest_size=16)
        for text in texts:
            digest.update(json.dumps(text).encode() + b"\n")
        return cache_folder() / "sentence-vectors" / f"{digest.hexdigest()}.safetensors"


def sentence_vectors(
    model: Any,
    texts: Sequence[str],
    *,
    batch_size: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Float[Tensor, "texts features"]:
    """Vectors of length 1, float32, on the CPU.

    Every text of a batch is padded to the longest. sentence-transformers batches texts of similar length in characters,
    which adds a third of padding on ordinary sentences; batches of similar length in tokens add hardly any.

    >>> vectors = sentence_vectors(load_sentence_encoder("all-minilm-l6-v2"), ["Bread rises.", "Rice swells."])
    >>> tuple(vectors.shape)
    (2, 384)

    Args:
        model: a loaded ``SentenceTransformer``.
        texts: what to encode.
        batch_size: texts that are encoded together; by default 32 on a processor and 1,024 on another device.
        advance: is called once for each text that is done.
    """
    import torch

    if batch_size is None:
        batch_size = 32 if model.device.type == "cpu" else 1024
    order = list(range(len(texts)))
    if len(texts) > batch_size:
        lengths = _lengths(model, texts)
        order.sort(key=lambda position: -lengths[position])
    vectors = torch.empty(len(texts), model.get_embedding_dimension())
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        made = model.encode(
            [texts[position] for position in positions],
            batch_size=batch_size,
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        vectors[positions] = made.float().cpu()
        for _ in positions:
            advance()
    return vectors


def _lengths(model: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, or its characters where the model's tokenizer is not one of transformers'."""
    from transformers import PreTrainedTokenizerBase

    tokenizer = model.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return list(map(len, texts))
    lengths: list[int] = []
    for start in range(0, len(texts), _TOKENIZE_BATCH_SIZE):
        # With the settings of the encoding itself: a tokenizer whose settings change is not safe among threads.
        counted = tokenizer(
            list(texts[start : start + _TOKENIZE_BATCH_SIZE]),
            padding=True,
            truncation="longest_first",
            return_attention_mask=True,
            return_tensors="np",
        )
        lengths += counted["attention_mask"].sum(axis=1).tolist()
    return lengths
