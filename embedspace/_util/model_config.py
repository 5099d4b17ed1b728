"""A model's ``config.json``: its language model's part, and numbers that architectures call by different names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedspace._util.files import read_json_object

Config = Mapping[str, Any]

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
HIDDEN_SIZE = ("hidden_size", "n_embd", "d_model", "n_embed")
LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_seq_length", "seq_length",
    "n_ctx", "max_target_positions", "model_max_length",
)  # fmt: skip
"""Names of the number of positions, the most usual first; after the first come GPT-2's, MPT's and rarer ones."""
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder.

    Raises:
        ValueError: there is none, or it is not JSON.
    """
    return read_json_object(folder / "config.json", f"{folder} is not a model folder: it has no config.json")


def text_config(config: Config) -> Config:
    """The part of a configuration that describes the language model; the whole where it is not nested.

    >>> text_config({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})
    {'model_type': 'gemma3_text'}
    """
    inner = next((config[name] for name in _NESTED if isinstance(config.get(name), Mapping)), None)
    return config if inner is None else text_config(inner)


def config_number(config: Config, names: Sequence[str]) -> int | None:
    """A positive whole number under one of its names, in the language model's part or else in the whole.

    >>> config_number({"n_positions": 1024}, LENGTHS), config_number({"max_position_embeddings": None}, LENGTHS)
    (1024, None)
    """
    for part in (text_config(config), config):
        for name in names:
            value = part.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def context_length(folder: Path) -> int | None:
    """Number of positions of the model in a folder; None where neither configuration nor architecture says.

    A nested configuration may leave out what is its architecture's default, which transformers knows.

    Raises:
        ValueError: the folder has no readable ``config.json``.
    """
    length = config_number(read_config(folder), LENGTHS)
    return _default_length(folder) if length is None else length


def _default_length(folder: Path) -> int | None:
    from transformers import AutoConfig

    try:
        whole: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config: dict[str, Any] = whole.get_text_config(decoder=True).to_dict()
    except Exception:  # configuration classes of many authors: whatever they raise, the length is not known
        return None
    return config_number(config, LENGTHS)
