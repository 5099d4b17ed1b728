"""A projector's folder on disk: config.json and model.safetensors, checked on reading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedspace._util.files import atomic_write
from embedspace._util.safetensors_file import read_tensors, save_tensors
from embedspace.models import hub_id

if TYPE_CHECKING:
    from torch import nn

    from embedspace.projector.config import ProjectorConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SHIPPED = Path(__file__).with_name("weights")


def weights_folder(name: str | Path, revision: str | None = None) -> Path:
    """The local folder of a projector that is packaged, local, or on the hub.

    Raises:
        ValueError: there is none, or a revision is given for one that is not on the hub.
    """
    shipped = SHIPPED / str(name)
    repository = hub_id(name)
    if repository is not None:
        from embedspace.models import download_model

        return download_model(repository, revision)
    if revision is not None:
        raise ValueError(f"revision {revision!r} needs a projector on the hub; {str(name)!r} is not one")
    folder = shipped if isinstance(name, str) and (shipped / CONFIG).is_file() else Path(name).expanduser()
    if not folder.is_dir():
        known = ", ".join(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))) or "none"
        raise ValueError(
            f"there is no projector {str(name)!r}: neither a folder, nor a hub id, nor a packaged name ({known})"
        )
    return folder


def write_weights(folder: Path, config: ProjectorConfig, head: nn.Module) -> None:
    """Write the two files, each atomically; floating-point tensors in half precision."""
    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in head.state_dict().items()
    }
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    atomic_write(folder / CONFIG, config.to_json())


def read_weights(folder: Path, head: nn.Module) -> None:
    """Load the weights of a folder into a head.

    Raises:
        ValueError: the weights are missing, damaged, not finite, or of another configuration.
    """
    path = folder / WEIGHTS
    advice = "copy it again from its source"
    absent = f"{folder} has no {WEIGHTS}; save the projector again with save_pretrained"
    tensors, _ = read_tensors(path, advice=advice, absent=absent)
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        shown = "; ".join(
            f"{name} is {found.get(name, 'missing')}, not {wanted.get(name, 'known')}" for name in wrong[:3]
        )
        raise ValueError(f"{path} does not belong to the {CONFIG} beside it: {shown}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{path} holds NaN or infinity in {name}; {advice}")
    head.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    )
    torch.nn.Module.eval(head)
