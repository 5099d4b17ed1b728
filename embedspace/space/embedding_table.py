"""The input embedding table of a model folder: found, memory-mapped, read by the row."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedspace._util.files import read_json_object
from embedspace._util.model_config import HIDDEN_SIZE, Config, config_number, read_config, text_config
from embedspace._util.safetensors_file import open_tensors

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Layout:
    """Where an architecture keeps its table, and what its embedding module does to a row."""

    tensor: str = "model.embed_tokens.weight"
    is_scaled: bool = False
    """Whether a row is multiplied by the square root of the hidden size."""

    def scale(self, config: Config) -> float:
        """What the embedding module multiplies a row by.

        Raises:
            ValueError: the configuration names no hidden size, by whose root rows are scaled.
        """
        if not self.is_scaled:
            return 1.0
        size = config_number(config, HIDDEN_SIZE)
        if size is None:
            raise ValueError(
                f"the configuration of this {config.get('model_type')!r} model names no hidden_size, and its rows are "
                "scaled by the root of it; fetch or convert the model again"
            )
        return math.sqrt(size)


# Only architectures whose embedding module alone computes what the first layer (or the learned positions before it)
# receives. Models that use the token ids a second time (per-layer embeddings) or route other modalities through them
# cannot run on embeddings alone.
LAYOUTS = {
    **dict.fromkeys(
        (
            "llama", "mistral", "ministral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi", "phi3",
            "olmo", "olmo2", "olmo3", "olmoe", "smollm3", "stablelm", "starcoder2", "granite", "granitemoe",
            "cohere", "cohere2", "glm", "glm4", "exaone4", "ernie4_5", "deepseek_v2", "deepseek_v3", "gpt_oss",
            "seed_oss",
        ),
        Layout(),
    ),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "vaultgemma"), Layout(is_scaled=True)),
    "gpt2": Layout("transformer.wte.weight"),
    "gpt_neox": Layout("gpt_neox.embed_in.weight"),
}  # fmt: skip


_FACTORS = ("embedding_multiplier", "scale_embedding", "scale_emb", "embedding_scale", "embed_scale")
"""Settings by which architectures scale their embeddings."""


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """All rows of a vocabulary, memory-mapped from a safetensors file.

    Only the pages of rows that are read come into memory, and never the rest of the model.

    >>> from embedspace import models
    >>> table = EmbeddingTable.from_folder(models.resolve("smollm2-135m-instruct"))
    >>> tuple(table.rows.shape), table.scale, tuple(table.lookup([0, 1]).shape)
    ((49152, 576), 1.0, (2, 576))
    """

    rows: Float[Tensor, "vocabulary hidden"] = field(repr=False)
    """As stored in the checkpoint."""
    scale: float
    """What the model's embedding module multiplies a row by."""
    path: Path
    """The safetensors file."""
    tensor: str | None = None
    """The table's name in that file; None where the rows are in no file."""

    def __reduce__(self) -> tuple[Callable[..., EmbeddingTable], tuple[object, ...]]:
        """Another process opens the file for itself."""
        if self.tensor is None:
            return type(self), (self.rows, self.scale, self.path)
        return _reopened, (self.path, self.tensor, self.scale)

    @classmethod
    def from_folder(cls, folder: Path, *, tensor: str | None = None) -> EmbeddingTable:
        """The table of a model folder, sharded or not.

        Args:
            folder: holds ``config.json`` and safetensors files.
            tensor: name of the table's tensor. It changes the name alone: rows of an architecture that is known here
                are scaled as ever. For one that is not known, the caller guarantees that the model's layers receive
                the rows unchanged.

        Raises:
            ValueError: no configuration, no safetensors, no such tensor, a damaged file, or an unknown architecture.
        """
        config = read_config(folder)
        layout = _layout(config, folder, tensor)
        path, name = _find(folder, table_names(config, folder, tensor))
        with _open(path) as file:
            rows: Tensor = file.get_tensor(name)
        if rows.ndim != 2 or not rows.is_floating_point():
            raise ValueError(
                f"{name} in {path} has shape {list(rows.shape)} and dtype {rows.dtype}; a table of floating-point "
                "rows is needed (a quantised checkpoint must be dequantised first)"
            )
        return cls(rows, layout.scale(config), path, name)

    def lookup(self, ids: list[int] | Int[Tensor, " tokens"]) -> Float[Tensor, "tokens hidden"]:
        """Rows as the model's own embedding module returns them, in new memory."""
        return self._scaled(self.rows[ids])

    def chunks(self, size: int = 8192) -> Iterator[Float[Tensor, "rows hidden"]]:
        """The whole table in pieces, in float32, scaled."""
        for chunk in self.rows.split(size):
            yield self._scaled(chunk).float()

    def _scaled(self, rows: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        if self.scale == 1.0:
            return rows
        # As the model does it: the factor is rounded to the table's dtype before it multiplies.
        return rows * torch.tensor(self.scale).to(rows.dtype)

    def digest(self) -> bytes:
        """Hash of shape, dtype, scale and every byte of the rows."""
        digest = hashlib.blake2b(f"{list(self.rows.shape)} {self.rows.dtype} {self.scale!r} ".encode())
        for chunk in self.rows.split(8192):
            digest.update(chunk.contiguous().view(torch.uint8).numpy().data)
        return digest.digest()


def _reopened(path: Path, tensor: str, scale: float) -> EmbeddingTable:
    """A pickled table.

    Raises:
        ValueError: its file is not here, or is another one.
    """
    absent = (
        f"{path}, the file of a pickled embedding table, is not on this machine: its rows are not in the pickle. "
        "Load the space here with EmbeddingSpace.from_pretrained"
    )
    with open_tensors(path, advice="fetch or convert the model again", absent=absent) as file:
        _first([tensor], file.keys(), f"is in {path}")
        return EmbeddingTable(file.get_tensor(tensor), scale, path, tensor)


def table_names(config: Config, source: Path | str, tensor: str | None = None) -> list[str]:
    """The names under which a checkpoint may hold its table, likeliest first.

    Args:
        config: the model's configuration.
        source: folder or hub id, for the message.
        tensor: the name that the caller gave.

    Raises:
        ValueError: an unknown architecture.
    """
    layout = _layout(config, source, tensor)
    names = [layout.tensor, layout.tensor.split(".", 1)[-1]]
    if tensor is None and (
        text_config(config).get("tie_word_embeddings") or config.get("tie_word_embeddings")
    ):
        names.append("lm_head.weight")
    return names


def _layout(config: Config, source: Path | str, tensor: str | None) -> Layout:
    kind, inner = (str(part.get("model_type")) for part in (config, text_config(config)))
    if tensor is not None:
        known = LAYOUTS.get(kind) or LAYOUTS.get(inner)
        if known is None:
            _warn_of_factors(config, source)
        return replace(known or Layout(), tensor=tensor)
    if kind not in LAYOUTS:
        raise ValueError(
            f"the architecture {kind!r} of {source} is not known to take plain embedding rows; known are "
            f"{', '.join(sorted(LAYOUTS))}. If its layers receive the rows of one table unchanged, name it "
            "with EmbeddingSpace.from_pretrained(..., table='name.of.the.tensor') and check with "
            "`embedspace verify MODEL --table name.of.the.tensor`"
        )
    return LAYOUTS[kind]


def _warn_of_factors(config: Config, source: Path | str) -> None:
    """Warn where the configuration of an architecture that is not known here names a factor of its embeddings."""
    for part in (text_config(config), config):
        for name in _FACTORS:
            if part.get(name) not in (None, False, 1):
                warnings.warn(
                    f"the configuration of {source} has {name}={part[name]!r}, and table= takes its rows unscaled. If "
                    "the model multiplies what its embedding module returns, its layers receive other rows than these: "
                    "check with `embedspace verify MODEL --table name.of.the.tensor`",
                    RuntimeWarning,
                    stacklevel=5,
                )
                return


def _find(folder: Path, names: list[str]) -> tuple[Path, str]:
    """The safetensors file and the name under which it holds the table."""
    if (folder / INDEX).is_file():
        shard, name = find_shard(folder / INDEX, names)
        if not (folder / shard).is_file():
            raise ValueError(
                f"{folder} lacks {shard}, which holds {name} by its {INDEX}; fetch or convert the model again"
            )
        return folder / shard, name
    path = folder / WEIGHTS
    if not path.is_file():
        found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
        raise ValueError(
            f"{folder} has no embedding table: {WEIGHTS} (or its index) is missing, there is {found}. "
            "Convert other weight formats with transformers: model.save_pretrained(folder)"
        )
    with _open(path) as file:
        return path, _first(names, file.keys(), f"is in {path}")


def find_shard(index: Path, names: list[str]) -> tuple[str, str]:
    """The file of a sharded checkpoint that holds the table, and the table's name in it.

    Raises:
        ValueError: the index lists none of the names, or is damaged.
    """
    shards = read_shards(index)
    name = _first(names, shards, f"is listed in {index}")
    return shards[name], name


def read_shards(index: Path) -> dict[str, str]:
    """The index of a sharded checkpoint: the file of each tensor, beside the index.

    Raises:
        ValueError: the index is missing or damaged.
    """
    shards = read_json_object(index, f"{index} is missing").get("weight_map")
    fault = None
    if not isinstance(shards, dict) or not shards:
        fault = "it has no 'weight_map' from tensors to files"
    else:
        for tensor, file in shards.items():
            if not isinstance(file, str) or file != Path(file).name or file in ("", "..", "."):
                fault = f"its 'weight_map' places {tensor!r} in {file!r}, which is no file beside it"
                break
    if fault is not None:
        raise ValueError(f"{index} is damaged: {fault}; fetch or convert the model again")
    return dict(shards or {})


def _first(names: list[str], stored: Collection[str], where: str) -> str:
    for name in names:
        if name in stored:
            return name
    raise ValueError(f"none of {names} {where}; is this the checkpoint of another architecture?")


def _open(path: Path) -> Any:
    return open_tensors(path, advice="fetch or convert the model again")
