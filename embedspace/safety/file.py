"""A filter at rest: ``filter.json`` and ``filter.safetensors`` in one folder, which may hold anything."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedspace._util.files import read_json_object
from embedspace.safety.calibration import Calibration
from embedspace.safety.layers.lora import Adapted
from embedspace.safety.layers.manifold import MEASURES, Manifold
from embedspace.safety.layers.neighbours import Neighbours
from embedspace.safety.layers.ngrams import NGramHead
from embedspace.safety.layers.pooled import PooledHead
from embedspace.safety.layers.references import References
from embedspace.safety.layers.structural import Structural

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.safety.filter import Layer, SafetyFilter
    from embedspace.space import EmbeddingSpace

FORMAT = "embedspace safety filter 2"
SHIPPED = Path(__file__).parent / "weights"
_VALUES, _TENSORS = "filter.json", "filter.safetensors"

# What each layer is made of: plain values, and tensors with the dtype they are stored in.
_FIELDS: dict[type, tuple[tuple[str, ...], dict[str, torch.dtype]]] = {
    Structural: (("most_rows", "largest_norm"), {}),
    Manifold: ((), {"allowed": torch.float32}),
    PooledHead: ((), {"coefficients": torch.float32, "intercept": torch.float32}),
    References: (("owners", "steepness"), {"directions": torch.float16, "unsafe": torch.bool}),
    NGramHead: ((), {"coefficients": torch.float16, "intercept": torch.float32}),
    Neighbours: (
        ("encoder", "k", "temperature", "prior"),
        {
            "vectors": torch.float16,
            "unsafe": torch.bool,
            "coefficients": torch.float32,
            "intercept": torch.float32,
        },
    ),
    Adapted: (
        ("encoder", "blocks", "rank"),
        {"updates": torch.float16, "coefficients": torch.float32, "intercept": torch.float32},
    ),
}
_KINDS = {kind.name: kind for kind in _FIELDS}  # type: ignore[attr-defined]


def write_filter(guard: SafetyFilter, folder: Path) -> None:
    """Write a filter's two files.

    Raises:
        ValueError: a layer that no file can hold.
    """
    from safetensors.torch import save

    values: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for layer in guard.layers:
        if type(layer) not in _FIELDS:
            raise ValueError(
                f"the layer {layer.name!r} is a function of yours, which no file can hold; save the filter without it "
                "and add it again with with_classifier after from_pretrained"
            )
        plain, stored = _FIELDS[type(layer)]
        values[layer.name] = {name: getattr(layer, name) for name in plain}
        tensors |= {f"{layer.name}.{name}": getattr(layer, name).to(kind) for name, kind in stored.items()}
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    content = {
        "format": FORMAT,
        "space": guard.space.fingerprint,
        "model": guard.space.name,
        "threshold": guard.threshold,
        "calibration": asdict(guard.calibration) if guard.calibration else None,
        "weights": dict(guard.weights),
        "layers": values,
        "sha256": hashlib.sha256(data).hexdigest(),
        "card": dict(guard.card),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _TENSORS).write_bytes(data)
    (folder / _VALUES).write_text(json.dumps(content, indent=1) + "\n")


def read_filter(name: str | Path, space: EmbeddingSpace) -> SafetyFilter:
    """The filter in a folder, or the one that comes with the package under that name.

    Raises:
        ValueError: nothing has that name, a damaged file, or a filter of another space.
    """
    from embedspace.safety.filter import SafetyFilter

    folder = _folder(name)
    content = read_json_object(
        folder / _VALUES, f"{folder} holds no filter: it has no {_VALUES}; write one with SafetyFilter.save"
    )
    if content.get("format") != FORMAT:
        raise ValueError(f"{folder / _VALUES} is of format {content.get('format')!r}, not {FORMAT!r}")
    if content.get("space") != space.fingerprint:
        raise ValueError(
            f"the filter in {folder} is for the space {content.get('space')} ({content.get('model')}), not for that of "
            f"{space.name!r} ({space.fingerprint}); its rows mean something else there: fit one with SafetyFilter.fit"
        )
    tensors = _read_tensors(folder / _TENSORS, content.get("sha256"))
    try:
        layers = tuple(_layer(each, values, tensors) for each, values in content["layers"].items())
        _require_numbers(content, [layer.name for layer in layers])
        calibration = content["calibration"]
        return SafetyFilter(
            space,
            layers,
            {layer: float(share) for layer, share in content["weights"].items()},
            content["threshold"],
            Calibration(**calibration) if calibration else None,
            content["card"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{folder / _VALUES} is damaged: {error!r}; save the filter again") from error


def _require_numbers(content: dict[str, Any], layers: list[str]) -> None:
    weights, threshold = content["weights"], content["threshold"]
    if not set(weights) <= set(layers) or not all(share >= 0 for share in weights.values()):
        raise ValueError(f"the weights {weights} are not those of the layers {layers}")
    if weights and abs(sum(weights.values()) - 1) > 1e-6:
        raise ValueError(f"the weights {weights} do not sum to 1")
    if threshold is not None and not (isinstance(threshold, float) and 0 <= threshold <= 1):
        raise ValueError(f"the threshold must be a number in [0, 1], it is {threshold!r}")


def _folder(name: str | Path) -> Path:
    shipped = sorted(path.name for path in SHIPPED.iterdir()) if SHIPPED.is_dir() else []
    if str(name) in shipped:
        return SHIPPED / str(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"there is no filter {str(name)!r}; allowed are {', '.join(shipped) or 'no shipped ones'} and a folder "
            "that SafetyFilter.save wrote"
        )
    return folder


def _read_tensors(path: Path, sha256: object) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("its hash is not the one in filter.json")
        return load(data)
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is missing, damaged or cut short: {error}; save the filter again"
        ) from error


def _layer(name: str, values: dict[str, Any], tensors: dict[str, Tensor]) -> Layer:
    kind = _KINDS[name]
    _, stored = _FIELDS[kind]
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    for field, dtype in stored.items():
        tensor = tensors[f"{name}.{field}"]
        if tensor.dtype != dtype or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name}.{field} must hold finite {dtype}, it holds {tensor.dtype}")
        given[field] = tensor if dtype == torch.bool else tensor.float()
    if name == Manifold.name and len(given["allowed"]) != len(MEASURES):
        raise ValueError(f"manifold.allowed must hold {len(MEASURES)} numbers")
    layer: Layer = kind(**given)
    return layer
