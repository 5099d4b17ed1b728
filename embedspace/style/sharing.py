"""Where a style vector comes from by its name (packaged, file, hub), and its card there."""

from __future__ import annotations

import json
from pathlib import Path

from embedspace.models import download_files, hub_id
from embedspace.prompt import Recipe, Rows

SHIPPED = Path(__file__).with_name("vectors")
HUB_FILE = "style_vector.safetensors"
"""Name of the vector's file in a folder or a repository of the hub."""

_CARD = """---
license: other
library_name: embedspace
---
# A style vector

One direction of the input embedding space `{space}`: hidden size {hidden}, norm {norm:.3f}, method `{method}`.
`apply` moves these rows of a prompt: {rows}.

```python
from embedspace import EmbeddingSpace, StyleVector

space = EmbeddingSpace.from_pretrained("THE MODEL THAT IT WAS LEARNT FOR")
vector = StyleVector.from_pretrained("PATH OR HUB ID OF THIS FOLDER", space)
prompt = vector.apply(space.embed_chat([{{"role": "user", "content": "..."}}]), alpha=1.0)
```

## How it was made

```json
{recipe}
```
"""


def packaged_vectors() -> list[str]:
    """Names of the vectors that ship with the package, learnt for ``smollm2-135m-instruct``.

    >>> packaged_vectors()
    ['cheerful', 'pirate', 'terse']
    """
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def packaged_recipe(name: str) -> tuple[str, list[tuple[str, str]]] | None:
    """Instruction and examples that a packaged vector was distilled from; None for another name.

    >>> packaged_recipe("pirate")[0]
    'Answer like a pirate.'
    """
    recipe = json.loads((SHIPPED / "recipes.json").read_text("utf-8"))["recipes"].get(name)
    return None if recipe is None else (recipe["instruction"], [(q, a) for q, a in recipe["examples"]])


def vector_file(name: str | Path, revision: str | None = None) -> Path:
    """The local file of a vector that is packaged, local, or on the hub.

    Raises:
        ValueError: there is none, the hub refused, or a revision of one that is not on the hub.
    """
    local = Path(name).expanduser()
    packaged = SHIPPED / f"{name}.safetensors"
    repository = None if local.exists() or local.suffix == ".safetensors" else hub_id(name)
    if repository is not None:
        return download_files(repository, [HUB_FILE, "README.md"], revision) / HUB_FILE
    if revision is not None:
        raise ValueError(f"revision {revision!r} needs a style vector on the hub; {str(name)!r} is not one")
    if isinstance(name, str) and packaged.is_file():
        return packaged
    if local.is_dir():
        return local / HUB_FILE
    if not local.is_file():
        raise ValueError(
            f"there is no style vector {str(name)!r}: neither a file, nor a hub id, nor a packaged name "
            f"({', '.join(packaged_vectors()) or 'none'}); make one with StyleVector.distill"
        )
    return local


def card_text(space: str, *, hidden: int, norm: float, method: str, rows: Rows, recipe: Recipe) -> str:
    """What a reader has to know before a vector is used, as Markdown."""
    shown = json.dumps(recipe.to_dict(), indent=1, ensure_ascii=False).replace("```", "` ` `")
    return _CARD.format(space=space, hidden=hidden, norm=norm, method=method, rows=rows, recipe=shown)
