"""Soft prompts that PEFT trained, as prompts of our own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedspace.finite import require_finite
from embedspace.prompt import PromptEmbeds, tensor_digest
from embedspace.recipe import Recipe
from embedspace.table import read_config, read_json_object

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

CONFIG, WEIGHTS, TENSOR = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"

_WHY_NOT = {
    "LORA": "it changes the model's weights, and embeddings cannot carry that: serve it with --lora-modules",
    "PREFIX_TUNING": "it writes keys and values into every layer, and a prompt only reaches the first",
}


def read_peft(
    folder: str | Path,
    space: EmbeddingSpace,
    *,
    before: PromptEmbeds | None = None,
    base_model: str | None = None,
) -> PromptEmbeds:
    """The soft prompt of a PEFT prompt-tuning adapter (Lester et al. 2021), alone or before a prompt.

    The rows count as template rows: style, blends and compression leave them as they were trained.

    Args:
        folder: what ``PeftModel.save_pretrained`` wrote.
        space: the space of the model that the adapter was trained for.
        before: a prompt that the soft prompt is put before, as PEFT does; in the wider dtype of the two.
        base_model: the base model's name as the adapter has it, to vouch that it is this space's model
            under another name.

    Raises:
        ValueError: no such adapter, a damaged one, one of another kind (LoRA, prefix tuning, ...), or one
            for another base model.
    """
    folder = Path(folder)
    config = read_json_object(folder / CONFIG, f"{folder} is not a PEFT adapter: it has no {CONFIG}")
    _check_kind(config, folder)
    _check_base(config, folder, space, base_model)
    vectors = _soft_prompt(folder, space)
    recipe = Recipe.of(
        "from_peft", {"folder": str(folder), "base_model": base_model, "vectors": tensor_digest(vectors)}
    )
    soft = PromptEmbeds(vectors, torch.zeros(len(vectors), dtype=torch.bool), space.fingerprint, recipe)
    require_finite(soft, f"the adapter in {folder}")
    if before is None:
        return soft
    space.require(before)
    wider = torch.promote_types(vectors.dtype, before.vectors.dtype)
    return PromptEmbeds.concat([soft.to(wider), before.to(wider)])


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type")
    if kind != "PROMPT_TUNING":
        reason = _WHY_NOT.get(str(kind), "only its rows before the first layer could be taken over")
        raise ValueError(
            f"the adapter in {folder} is of the kind {kind!r}: {reason}. Only PROMPT_TUNING adapters are prompts"
        )
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ValueError(
            f"the adapter in {folder} was trained for the task {task!r}; only CAUSAL_LM adapters prompt a "
            "language model"
        )


def _check_base(
    config: Mapping[str, Any], folder: Path, space: EmbeddingSpace, base_model: str | None
) -> None:
    own = read_config(space.folder)
    for name, ours in (
        ("token_dim", space.hidden_size),
        ("num_layers", own.get("num_hidden_layers")),
        ("num_attention_heads", own.get("num_attention_heads")),
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


def _is_folder_of(name: str, space: EmbeddingSpace) -> bool:
    """Whether a name is a local folder with the very table and tokenizer of a space."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return False
    if folder.resolve() == space.folder.resolve():
        return True
    try:
        return type(space).from_pretrained(folder).fingerprint == space.fingerprint
    except ValueError:
        return False


def _soft_prompt(folder: Path, space: EmbeddingSpace) -> Float[Tensor, "tokens hidden"]:
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            if TENSOR not in file.keys():  # noqa: SIM118
                raise ValueError(f"{path} has no tensor {TENSOR!r}, it has {sorted(file.keys())}")
            vectors: Tensor = file.get_tensor(TENSOR)
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no {WEIGHTS}; save the adapter again with save_pretrained(folder, safe_serialization=True)"
        ) from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}; save the adapter again") from error
    if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != space.hidden_size:
        raise ValueError(
            f"{TENSOR} in {path} has shape {list(vectors.shape)}; {space.name!r} needs [tokens, {space.hidden_size}]"
        )
    return vectors
