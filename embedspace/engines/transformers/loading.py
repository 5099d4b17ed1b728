"""The model of an in-process engine: its device, its dtype, and its weights, loaded whole or refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedspace._util.model_config import read_config, text_config
from embedspace._util.progress import loading
from embedspace.errors import EngineError

if TYPE_CHECKING:
    from embedspace.space import EmbeddingSpace


def choose_device(name: str) -> torch.device:
    """A device by torch's name; ``auto`` is a GPU where there is one.

    Raises:
        ValueError: unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use 'auto', 'cpu', 'cuda' or 'cuda:0'") from error


def choose_dtype(name: str, device: torch.device, space: EmbeddingSpace) -> torch.dtype:
    """The dtype to compute in; ``auto`` is float32 on a CPU for rows that are not scaled, else the checkpoint's.

    A model that scales its embeddings rounds the factor to the dtype that it computes in. The rows of a space are
    scaled in the checkpoint's dtype: another one warns.

    Raises:
        ValueError: unknown.
    """
    is_scaled = space.table.scale != 1.0
    if name == "auto":
        return torch.float32 if device.type == "cpu" and not is_scaled else space.dtype
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"unknown dtype {name!r}; use 'auto', 'float32', 'bfloat16' or 'float16'")
    if is_scaled and dtype != space.dtype:
        own = str(space.dtype).removeprefix("torch.")
        warnings.warn(
            f"{space.name!r} scales its embeddings by {space.table.scale:.4g}, rounded to the dtype that it computes "
            f"in; prompts are scaled in {own}, so in {name} the logits of text and of its rows differ a little. Use "
            f"dtype='auto' ({own}) where they must not",
            RuntimeWarning,
            stacklevel=3,
        )
    return dtype


def load_model(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """The causal language model of a folder on a device, for inference.

    Raises:
        ValueError: the checkpoint cannot be loaded, or lacks some of the model's weights.
        EngineError: the device has too little memory.
    """
    from transformers import AutoModelForCausalLM

    try:
        with loading():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
        model, report = loaded
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"it lacks {len(missing)} tensors, such as {missing[0]}, in whose place there would be random numbers"
            )
        return model.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"{device} has too little memory for the model in {folder} in {dtype}; use a smaller dtype, another "
            "device, or a server with VLLMClient"
        ) from error
    except Exception as error:  # loaders of many quantisations and versions: each raises what it likes
        raise ValueError(_explain(folder, error)) from error


def _explain(folder: Path, error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:400].rstrip(".")
    method = _quantisation(folder)
    if method is None:
        return f"the model in {folder} cannot be loaded in this process: {reason}; fetch or convert it again"
    return (
        f"the checkpoint in {folder} is quantised ({method}), and cannot be loaded in this process: {reason}. Serve it "
        f"(`vllm serve {folder} --enable-prompt-embeds`) and use VLLMClient, which needs of the model only this space; "
        "or use a checkpoint that is not quantised"
    )


def _quantisation(folder: Path) -> str | None:
    """The method by which a checkpoint is quantised; None where it is not."""
    config = read_config(folder)
    settings = config.get("quantization_config") or text_config(config).get("quantization_config")
    if not settings:
        return None
    return str(settings.get("quant_method", "by a method that its configuration does not name"))
