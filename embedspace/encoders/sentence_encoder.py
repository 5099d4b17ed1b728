"""Sentence encoders: texts to vectors, in batches, remembered on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace._util.progress import progress as shown
from embedspace.encoders.batching import sentence_vectors
from embedspace.models import cache_folder, resolve

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DEFAULT_ENCODER = "all-minilm-l6-v2"


class SentenceEncoder:
    """A sentence-transformers model whose unit vectors a projector starts from.

    Args:
        name: packaged name, local folder or hub id.
        device: as torch names it; by default a GPU where there is one.
        dtype: to compute in, as torch names it; vectors come out in float32 all the same.
    """

    def __init__(
        self, name: str = DEFAULT_ENCODER, *, device: str | None = None, dtype: str = "float32"
    ) -> None:
        self.name = name
        self.device = device
        self.dtype = dtype

    @cached_property
    def folder(self) -> Path:
        """The local folder of the model."""
        return resolve(self.name)

    @cached_property
    def fingerprint(self) -> str:
        """Identity by content: hash of weights, tokenizer and configuration."""
        digest = hashlib.blake2b(digest_size=16)
        names = ("*.safetensors", "tokenizer.json", "config.json", "modules.json", "1_Pooling/*.json")
        for path in sorted(path for pattern in names for path in self.folder.glob(pattern)):
            digest.update(f"{path.relative_to(self.folder)} {path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    @cached_property
    def model(self) -> Any:
        """The loaded model."""
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            str(self.folder), local_files_only=True, device=self.device, model_kwargs={"dtype": self.dtype}
        )

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
            cache: keep the vectors of this very list in the user's cache folder, and read them from there.

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
        path = self._kept(texts)
        if cache and path.is_file():
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            with suppress(SafetensorError):  # a damaged file is a miss
                return load_file(path)["vectors"]
        bar = shown("sentence vectors", len(texts)) if progress else nullcontext(lambda: None)
        with bar as advance:
            vectors = sentence_vectors(self.model, texts, batch_size=batch_size, advance=advance)
        if cache:
            _keep(path, vectors)
        return vectors

    def _kept(self, texts: Sequence[str]) -> Path:
        digest = hashlib.blake2b(f"{self.fingerprint} {self.dtype} ".encode(), digest_size=16)
        for text in texts:
            digest.update(json.dumps(text).encode() + b"\n")
        return cache_folder() / "sentence-vectors" / f"{digest.hexdigest()}.safetensors"


def _keep(path: Path, vectors: Tensor) -> None:
    """Write the vectors so that another process finds all of the file or none."""
    import os

    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    save_file({"vectors": vectors}, draft)
    draft.replace(path)
