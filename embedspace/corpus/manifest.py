"""The manifest of a corpus: what it was made of, by what, and which shards it has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedspace.corpus.shard import Shard

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        manifest["settings"], manifest["fingerprint"], manifest["sittings"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); choose another folder, or pass fresh=true to make the corpus anew"
        ) from error
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest, atomically."""
    draft = folder / f"{MANIFEST}.draft"
    draft.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(folder / MANIFEST)


def totals(shards: Sequence[Shard]) -> dict[str, Any]:
    """Counts over all shards, and what was refused."""
    refused = {number: reason for shard in shards for number, reason in shard.refused.items()}
    return {
        "texts": sum(shard.texts for shard in shards),
        "rows": sum(shard.rows for shard in shards),
        "bytes": sum(shard.size for shard in shards),
        "refused": refused,
        "shards": [
            {name: value for name, value in asdict(shard).items() if name != "refused"} for shard in shards
        ],
    }


def require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, naming each change, where a folder holds a corpus of other texts, settings or model."""
    before, after = ({**side["settings"], "model fingerprint": side["fingerprint"]} for side in (old, new))
    changes = [
        f"  {name}: {_shown(before.get(name))} -> {_shown(after.get(name))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if changes:
        raise ValueError(
            f"{folder} holds another corpus:\n" + "\n".join(changes) + "\n"
            "choose another folder, or pass fresh=true to throw the old one away"
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
