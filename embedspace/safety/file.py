"""A filter on disk: ``filter.json`` and ``filter.safetensors`` in one folder, beside any other files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from embedspace._util.files import atomic_path, atomic_write, read_json_object
from embedspace._util.markdown import markdown_table
from embedspace._util.safetensors_file import tensor_bytes
from embedspace.models import download_files, hub_id
from embedspace.safety.calibration import Calibration, LengthClass
from embedspace.safety.layers import MEASURES, SCORING_LAYERS, Manifold, Structural

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.safety.reading import Layer
    from embedspace.space import EmbeddingSpace

FORMAT = "embedspace safety filter 3"
_FORMER = "embedspace safety filter 2"
_FORMER_WINDOWS: dict[str, int | None] = {"window": 128, "costly_windows": None}
"""Of the former format, with one threshold for all lengths; such a filter is still written so."""
SHIPPED = Path(__file__).parent / "weights"
_VALUES, _TENSORS = "filter.json", "filter.safetensors"

_CARD = """---
license: other
library_name: embedspace
---
# A safety filter for {model}

Allows or refuses prompt embeddings of the space `{space}`. Layers: {layers}. Threshold: {threshold}.

```python
from embedspace import EmbeddingSpace, SafetyFilter

space = EmbeddingSpace.from_pretrained("{model}")
guard = SafetyFilter.from_pretrained("PATH OR HUB ID OF THIS FOLDER", space)
```

The bound on the share of refused benign prompts holds for prompts of the kind that it was calibrated on, and for no
other. Nothing is guaranteed for attacks.

{calibration}

{card}
"""

_LAYER_TYPES: dict[str, Any] = {Structural.name: Structural, Manifold.name: Manifold, **SCORING_LAYERS}


class FilterParts(NamedTuple):
    """The fields of a :class:`~embedspace.SafetyFilter` after its space."""

    layers: tuple[Layer, ...]
    weights: Mapping[str, float]
    threshold: float | None
    calibration: Calibration | None
    card: Mapping[str, object]
    window: int
    costly_windows: int | None


def write_filter(folder: Path, space: EmbeddingSpace, parts: FilterParts) -> None:
    """Write a filter's two files, replacing those of an earlier filter.

    A reader never finds a new ``filter.json`` beside old tensors, because the tensors are replaced first; it refuses an
    old ``filter.json`` beside new tensors, because their hash differs.

    Raises:
        ValueError: a layer that cannot be stored.
    """
    values: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for layer in parts.layers:
        if type(layer) is not _LAYER_TYPES.get(layer.name):
            raise ValueError(
                f"the layer {layer.name!r} calls a function of yours, which no file can hold; save the filter without "
                "it and add it again with with_classifier after from_pretrained"
            )
        stored = _LAYER_TYPES[layer.name].stored
        own = {field.name: getattr(layer, field.name) for field in fields(_LAYER_TYPES[layer.name])}
        values[layer.name] = {name: value for name, value in own.items() if name not in stored}
        tensors |= {f"{layer.name}.{name}": own[name].to(dtype) for name, dtype in stored.items()}
    data = tensor_bytes(tensors)
    calibration = asdict(parts.calibration) if parts.calibration else None
    classes = calibration.pop("classes") if calibration else ()
    windows = {"window": parts.window, "costly_windows": parts.costly_windows}
    is_former = windows == _FORMER_WINDOWS and not classes
    content = {
        "format": _FORMER if is_former else FORMAT,
        "space": space.fingerprint,
        "model": space.name,
        "threshold": parts.threshold,
        "calibration": calibration and calibration | ({"classes": classes} if classes else {}),
        "weights": dict(parts.weights),
        **({} if is_former else windows),
        "layers": values,
        "sha256": hashlib.sha256(data).hexdigest(),
        "card": dict(parts.card),
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Drafts of both are complete before either file is replaced; the inner one, of the tensors, is replaced first.
    with atomic_path(folder / _VALUES) as values_draft, atomic_path(folder / _TENSORS) as tensors_draft:
        tensors_draft.write_bytes(data)
        values_draft.write_text(json.dumps(content, indent=1) + "\n")


def read_filter(name: str | Path, space: EmbeddingSpace, revision: str | None = None) -> FilterParts:
    """The filter in a folder, on the hub, or the one that comes with the package under that name.

    Raises:
        ValueError: an unknown name, a damaged file, or a filter of another space.
    """
    folder = _folder(name, revision)
    content = read_json_object(
        folder / _VALUES, f"{folder} holds no filter: it has no {_VALUES}; write one with SafetyFilter.save"
    )
    if content.get("format") == _FORMER:
        content |= {"format": FORMAT} | _FORMER_WINDOWS
    if content.get("format") != FORMAT:
        raise ValueError(f"{folder / _VALUES} is of format {content.get('format')!r}, not {FORMAT!r}")
    if content.get("space") != space.fingerprint:
        raise ValueError(
            f"the filter in {folder} is for the space {content.get('space')} ({content.get('model')}), not for that of "
            f"{space.name!r} ({space.fingerprint}); its weights are meaningless there: fit one with SafetyFilter.fit"
        )
    tensors = _read_tensors(folder / _TENSORS, content.get("sha256"))
    try:
        layers = tuple(_layer(each, values, tensors) for each, values in content["layers"].items())
        _require_numbers(content, [layer.name for layer in layers])
        calibration = content["calibration"]
        return FilterParts(
            layers,
            {layer: float(weight) for layer, weight in content["weights"].items()},
            content["threshold"],
            _calibration(**calibration) if calibration else None,
            content["card"],
            content["window"],
            content["costly_windows"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{folder / _VALUES} is damaged: {error!r}; save the filter again") from error


def _calibration(classes: Sequence[Mapping[str, Any]] = (), **values: Any) -> Calibration:
    return Calibration(**values, classes=tuple(LengthClass(**each) for each in classes))


def _require_numbers(content: dict[str, Any], layers: list[str]) -> None:
    weights, threshold = content["weights"], content["threshold"]
    if not set(weights) <= set(layers) or not all(weight >= 0 for weight in weights.values()):
        raise ValueError(f"the weights {weights} are not those of the layers {layers}")
    if weights and abs(sum(weights.values()) - 1) > 1e-6:
        raise ValueError(f"the weights {weights} do not sum to 1")
    if threshold is not None and not (isinstance(threshold, float) and 0 <= threshold <= 1):
        raise ValueError(f"the threshold must be a number in [0, 1], it is {threshold!r}")
    window, most = content["window"], content["costly_windows"]
    if type(window) is not int or window < 1:
        raise ValueError(f"the window must be a number of rows, it is {window!r}")
    if most is not None and (type(most) is not int or most < 1):
        raise ValueError(f"costly_windows must be a number of windows or null, it is {most!r}")


def write_filter_card(path: Path, space: EmbeddingSpace, parts: FilterParts) -> None:
    """Write what a reader has to know before the filter is used."""
    rows = [(name, str(value)) for name, value in sorted(parts.card.items())]
    calibration = asdict(parts.calibration) if parts.calibration else {}
    text = _CARD.format(
        model=space.name,
        space=space.fingerprint,
        layers=", ".join(layer.name for layer in parts.layers),
        threshold="none yet" if parts.threshold is None else f"{parts.threshold:.4f}",
        calibration=markdown_table(
            ("calibration", "value"), [(name, str(value)) for name, value in calibration.items()]
        ),
        card=markdown_table(("fitted on", "value"), rows)
        if rows
        else "What it was fitted on is not recorded.",
    )
    atomic_write(path, text)


def _folder(name: str | Path, revision: str | None) -> Path:
    shipped = sorted(path.name for path in SHIPPED.iterdir()) if SHIPPED.is_dir() else []
    packaged = str(name) in shipped
    repository = None if packaged else hub_id(name)
    if repository is not None:
        return download_files(repository, [_VALUES, _TENSORS, "README.md"], revision)
    if revision is not None:
        raise ValueError(f"revision {revision!r} needs a filter on the hub; {str(name)!r} is not one")
    if packaged:
        return SHIPPED / str(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"there is no filter {str(name)!r}; allowed are {', '.join(shipped) or 'no shipped ones'}, a folder "
            "that SafetyFilter.save wrote, and a hub id"
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
    layer_type = _LAYER_TYPES[name]
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    for field, dtype in layer_type.stored.items():
        tensor = tensors[f"{name}.{field}"]
        if tensor.dtype != dtype or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name}.{field} must hold finite {dtype}, it holds {tensor.dtype}")
        arguments[field] = tensor if dtype == torch.bool else tensor.float()
    if name == Manifold.name and len(arguments["allowed"]) != len(MEASURES):
        raise ValueError(f"manifold.allowed must hold {len(MEASURES)} numbers")
    layer: Layer = layer_type(**arguments)
    return layer
