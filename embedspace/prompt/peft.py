"""PEFT adapters that are rows (prompt tuning, P-tuning): read from a folder and checked against a space, written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from embedspace._util.files import read_json_object, write_json
from embedspace._util.model_config import HEADS, LAYERS, config_number, read_config
from embedspace._util.safetensors_file import read_tensors, save_tensors
from embedspace.prompt.recipe import Recipe
from embedspace.prompt.rows import describe_nonfinite_rows, tensor_digest

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

CONFIG, WEIGHTS, TENSOR = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"

KINDS = ("PROMPT_TUNING", "P_TUNING")
"""Both are stored as final rows: PEFT evaluates the prompt encoder of P-tuning when it saves."""

_UNSUPPORTED = {
    "LORA": "it changes the model's weights, and embeddings cannot carry that: serve it with --lora-modules",
    "PREFIX_TUNING": "it writes keys and values into every layer, and a prompt only reaches the first",
}


class ModelSpace(Protocol):
    """What reading an adapter needs of an embedding space."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def hidden_size(self) -> int: ...
    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self: ...
    def require(self, prompt: Any) -> None: ...


def read_peft(
    folder: str | Path, space: ModelSpace, *, base_model: str | None = None
) -> tuple[Float[Tensor, "tokens hidden"], Recipe]:
    """Rows and recipe of a PEFT prompt-tuning adapter; see :meth:`embedspace.PromptEmbeds.from_peft`."""
    folder = Path(folder)
    config = read_json_object(folder / CONFIG, f"{folder} is not a PEFT adapter: it has no {CONFIG}")
    _check_kind(config, folder)
    _check_base(config, folder, space, base_model)
    vectors = _soft_prompt(folder, space)
    if config.get("num_virtual_tokens") not in (None, len(vectors)):
        raise ValueError(
            f"the adapter in {folder} has {len(vectors)} rows, its {CONFIG} says num_virtual_tokens "
            f"{config['num_virtual_tokens']}; copy both files from one adapter"
        )
    if fault := describe_nonfinite_rows(vectors):
        raise ValueError(f"the adapter in {folder} needs finite rows; {fault}")
    parameters = {"folder": str(folder), "base_model": base_model, "vectors": tensor_digest(vectors)}
    return vectors, Recipe.of("from_peft", parameters)


def write_peft(folder: Path, rows: Float[Tensor, "tokens hidden"], space: ModelSpace) -> None:
    """Write rows as a prompt-tuning adapter; see :meth:`embedspace.SoftPrompt.to_peft`."""
    own = read_config(space.folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, {TENSOR: rows.float()}, {"format": "pt"})
    write_json(
        folder / CONFIG,
        {
            "peft_type": "PROMPT_TUNING",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": space.name,
            "inference_mode": True,
            "num_virtual_tokens": len(rows),
            "token_dim": space.hidden_size,
            "num_transformer_submodules": 1,
            "num_attention_heads": config_number(own, HEADS),
            "num_layers": config_number(own, LAYERS),
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
            "revision": None,
        },
    )


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type")
    if kind not in KINDS:
        reason = _UNSUPPORTED.get(str(kind), "it holds more than input rows")
        raise ValueError(
            f"the adapter in {folder} is of the kind {kind!r}: {reason}. Only {' and '.join(KINDS)} adapters are "
            "prompts"
        )
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ValueError(
            f"the adapter in {folder} was trained for the task {task!r}; only CAUSAL_LM adapters prompt a "
            "language model"
        )


def _check_base(config: Mapping[str, Any], folder: Path, space: ModelSpace, base_model: str | None) -> None:
    own = read_config(space.folder)
    for name, ours in (
        ("token_dim", space.hidden_size),
        ("num_layers", config_number(own, LAYERS)),
        ("num_attention_heads", config_number(own, HEADS)),
    ):
        theirs = config.get(name)
        if None not in (theirs, ours) and theirs != ours:
            raise ValueError(
                f"the adapter in {folder} was trained for a model with {name} {theirs} "
                f"({config.get('base_model_name_or_path')!r}), {space.name!r} has {ours}; "
                "use the space of the adapter's own base model"
            )
    theirs = config.get("base_model_name_or_path")
    if not theirs or theirs in (space.name, base_model) or _is_folder_of(str(theirs), space):
        return
    raise ValueError(
        f"the adapter in {folder} was trained for the base model {theirs!r}, and that is not known to be "
        f"{space.name!r}; use its own space, or pass base_model={theirs!r} if it is the same model by another name"
    )


def _is_folder_of(name: str, space: ModelSpace) -> bool:
    """Whether a name is a local folder that holds the table and tokenizer of a space."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return False
    if folder.resolve() == space.folder.resolve():
        return True
    try:
        return type(space).from_pretrained(folder).fingerprint == space.fingerprint
    except ValueError:
        return False


def _soft_prompt(folder: Path, space: ModelSpace) -> Float[Tensor, "tokens hidden"]:
    path = folder / WEIGHTS
    absent = f"{folder} has no {WEIGHTS}; save the adapter again with save_pretrained(folder, safe_serialization=True)"
    tensors, _ = read_tensors(path, advice="save the adapter again", absent=absent)
    if TENSOR not in tensors:
        raise ValueError(f"{path} has no tensor {TENSOR!r}, it has {sorted(tensors)}")
    vectors = tensors[TENSOR]
    if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != space.hidden_size:
        raise ValueError(
            f"{TENSOR} in {path} has shape {list(vectors.shape)}; {space.name!r} needs [tokens, {space.hidden_size}]"
        )
    return vectors
