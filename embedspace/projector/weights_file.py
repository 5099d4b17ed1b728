"""A projector's folder: config.json and model.safetensors, which may be anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedspace.models import hub_id

if TYPE_CHECKING:
    from torch import nn

    from embedspace.projector.config import ProjectorConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SHIPPED = Path(__file__).with_name("weights")


def weights_folder(name: str | Path, revision: str | None = None) -> Path:
    """The local folder of a projector: one that comes with this package, a local one, or a hub's.

    Raises:
        ValueError: there is none, or a revision of something that is not on a hub.
    """
    shipped = SHIPPED / str(name)
    repository = hub_id(name)
    if repository is not None:
        from embedspace.models import download_model

        return download_model(repository, revision)
    if revision is not None:
        raise ValueError(f"revision {revision!r} needs a projector on a hub; {str(name)!r} is not one")
    folder = shipped if isinstance(name, str) and (shipped / CONFIG).is_file() else Path(name).expanduser()
    if not folder.is_dir():
        known = ", ".join(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))) or "none"
        raise ValueError(
            f"there is no projector {str(name)!r}: neither a folder nor a hub id nor one of ours ({known})"
        )
    return folder


def write_weights(folder: Path, config: ProjectorConfig, head: nn.Module) -> None:
    """Write the two files; floating numbers in half precision."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in head.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes files for their owner alone
    (folder / CONFIG).write_text(config.to_json(), encoding="utf-8")


def read_weights(folder: Path, head: nn.Module) -> None:
    """Load the weights of a folder into a head.

    Raises:
        ValueError: no weights, damaged ones, not finite, or those of another configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no {WEIGHTS}; save the projector again with save_pretrained"
        ) from None
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or cut short: {error}; copy it again from where it came from"
        ) from error
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
            raise ValueError(f"{path} holds NaN or infinity in {name}; copy it again from where it came from")
    head.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    )
    torch.nn.Module.eval(head)
