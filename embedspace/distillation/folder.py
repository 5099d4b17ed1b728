"""A soft prompt's folder: rows as safetensors, their origin as JSON, and a card; on disk and on the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedspace._util.files import atomic_write, read_json_object
from embedspace._util.markdown import markdown_table
from embedspace._util.safetensors_file import read_tensors, save_tensors
from embedspace.models import hub_id

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

FORMAT = "embedspace.soft_prompt.v1"
CONFIG, WEIGHTS, TENSOR = "soft_prompt.json", "soft_prompt.safetensors", "soft_prompt"

_CARD = """---
license: {licence}
library_name: embedspace
---
# {rows} rows in place of {content_rows}

A soft prompt for the frozen `{model}`: {rows} rows of its input embedding space that stand in place of the messages
below.

```python
from embedspace import EmbeddingSpace, SoftPrompt

space = EmbeddingSpace.from_pretrained("{model}")
soft = SoftPrompt.from_pretrained("PATH OR HUB ID OF THIS FOLDER", space)
prompt = space.embed_chat(soft.conversation("..."))
```

## Fidelity

Divergence from the model with the messages, in nats per token of its answers, on {held_out} questions that were not
trained on but decided when to stop: {start:.3f} before training (`{method}`), {after:.3f} after it.

## How it was made

{settings}
Embedding space: `{space}`.

## Teacher

{messages}

## Questions ({questions_count})

{questions}
"""


def write_folder(
    folder: Path, rows: Float[Tensor, "tokens hidden"], space: str, role: str, origin: Mapping[str, Any]
) -> None:
    """Write the three files, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, {TENSOR: rows}, {"format": FORMAT})
    content = {"format": FORMAT, "space": space, "role": role, "origin": dict(origin)}
    atomic_write(folder / CONFIG, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    atomic_write(folder / "README.md", _card(rows, space, origin))


def read_folder(
    folder: Path, space: EmbeddingSpace
) -> tuple[Float[Tensor, "tokens hidden"], str, dict[str, Any]]:
    """Rows, role and origin.

    Raises:
        ValueError: no such folder, a damaged one, or one of another space.
    """
    config = read_json_object(
        folder / CONFIG, f"{folder} is not a soft prompt: it has no {CONFIG}; write one with SoftPrompt.save"
    )
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{folder / CONFIG} has the format {config.get('format')!r}, this version reads {FORMAT!r}"
        )
    if config.get("space") != space.fingerprint:
        raise ValueError(
            f"{folder} holds a soft prompt for the space {config.get('space')} "
            f"({config.get('origin', {}).get('model')!r}), not for {space.name!r} ({space.fingerprint}); distil it "
            "again with this model"
        )
    tensors, _ = read_tensors(
        folder / WEIGHTS,
        advice="save the soft prompt again",
        absent=f"{folder} has no {WEIGHTS}; save the soft prompt again",
    )
    rows = tensors.get(TENSOR)
    if rows is None or rows.dtype != torch.float32 or rows.ndim != 2 or rows.shape[1] != space.hidden_size:
        found = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}
        raise ValueError(
            f"{folder / WEIGHTS} must hold {TENSOR} as float32 [tokens, {space.hidden_size}], it holds {found}; save "
            "the soft prompt again"
        )
    return rows, str(config.get("role", "system")), dict(config.get("origin", {}))


def soft_prompt_folder(name: str | Path, revision: str | None = None) -> Path:
    """The local folder of a soft prompt that is local or on the hub.

    Raises:
        ValueError: the hub's refusal, or a revision of a local folder.
    """
    repository = hub_id(name)
    if repository is not None:
        from embedspace.models import download_files

        return download_files(repository, [CONFIG, WEIGHTS, "README.md"], revision)
    if revision is not None:
        raise ValueError(f"revision {revision!r} needs a soft prompt on the hub; {str(name)!r} is not one")
    return Path(name).expanduser()


def _card(rows: Tensor, space: str, origin: Mapping[str, Any]) -> str:
    divergence = origin.get("divergence", {})
    settings = {name: str(value) for name, value in origin.get("settings", {}).items()}
    messages = "\n\n".join(
        f"{message['role']}:\n\n" + "\n".join(f"> {line}" for line in str(message["content"]).splitlines())
        for message in origin.get("messages", [])
    )
    questions = origin.get("questions", [])
    return _CARD.format(
        licence=origin.get("licence", "other"),
        rows=len(rows),
        content_rows=origin.get("content_rows", "a prompt's"),
        model=origin.get("model", "?"),
        held_out=divergence.get("held_out_questions", 0),
        start=divergence.get("start", float("nan")),
        after=divergence.get("after", float("nan")),
        method=origin.get("start", "?"),
        settings=markdown_table(("setting", "value"), [list(pair) for pair in settings.items()]),
        space=space,
        messages=messages or "Not recorded.",
        questions_count=len(questions),
        questions="\n".join(f"- {question}" for question in questions) or "Not recorded.",
    )
