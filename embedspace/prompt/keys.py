"""Cache keys: everything that decides a prompt's vectors, hashed together."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from embedspace.prompt.prompt_embeds import PromptEmbeds
from embedspace.prompt.recipe import Recipe
from embedspace.prompt.rows import tensor_digest

if TYPE_CHECKING:
    import torch

KEY_BYTES = 32
CACHE_FORMAT = 1
"""Version of keys, entries and file together; raised whenever one of them, or what `embed` returns, changes."""


class PromptStore(Protocol):
    """A store of prompts under their keys, such as :class:`embedspace.EmbeddingCache`."""

    def get_or_make(
        self, keys: Sequence[bytes], make: Callable[[int], PromptEmbeds]
    ) -> Iterator[PromptEmbeds]:
        """For each key in order the stored prompt, or ``make(position)``, which is then stored."""
        ...


def cache_key(
    *,
    space: str,
    template: str | None,
    token_ids: Sequence[int],
    recipe: Recipe,
    dtype: torch.dtype,
    version: int = CACHE_FORMAT,
) -> bytes:
    """Key (32 bytes) of a prompt whose rows are looked up.

    Every part is hashed after its length, so that no two lists of parts have the same bytes.

    Args:
        space: fingerprint of the embedding space.
        template: the chat template that the text went through; None for plain text, which is not ``""``.
        token_ids: of the whole prompt, each in the range of 64 bits.
        recipe: the whole chain that makes the prompt, its text included.
        dtype: of the vectors.
        version: of the library's cache format.

    >>> import torch
    >>> parts = {"space": "a space", "token_ids": [1, 2], "recipe": Recipe("embed"), "dtype": torch.float32}
    >>> cache_key(template=None, **parts) == cache_key(template="", **parts)
    False
    """
    ids = struct.pack(f"<{len(token_ids)}q", *token_ids)
    return _digest("rows", version, space, template, ids, _recipe_bytes(recipe), str(dtype))


def transformed_key(prompt: PromptEmbeds, step: Recipe, version: int = CACHE_FORMAT) -> bytes:
    """Key (32 bytes) of the result of a transformation of a prompt.

    The prompt's own bytes are part of it, so that prompts with an incomplete recipe still get different keys.

    >>> import torch
    >>> prompt = PromptEmbeds(torch.ones(1, 1), torch.tensor([True]), "space", Recipe.of("example", {}))
    >>> steps = [Recipe.of("compress", {"length": length}) for length in (1, 2)]
    >>> transformed_key(prompt, steps[0]) == transformed_key(prompt, steps[1])
    False

    Args:
        prompt: what goes in.
        step: the transformation and everything that decides its result besides the prompt.
        version: of the library's cache format.
    """
    return _digest(
        "transformed",
        version,
        prompt.space,
        tensor_digest(prompt.vectors),
        tensor_digest(prompt.content),
        _recipe_bytes(prompt.recipe),
        _recipe_bytes(step),
        str(prompt.vectors.dtype),
    )


def require_key(key: bytes) -> bytes:
    """The key itself, checked.

    Raises:
        TypeError: not bytes.
        ValueError: bytes of another length.
    """
    if not isinstance(key, bytes):
        raise TypeError(f"a cache key is made by cache_key and is bytes, got a {type(key).__name__}")
    if len(key) != KEY_BYTES:
        raise ValueError(f"a cache key made by cache_key has {KEY_BYTES} bytes, got {len(key)}")
    return key


def _digest(kind: str, version: int, *parts: str | bytes | None) -> bytes:
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in (kind, str(version), *parts):
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        # A length of -1 keeps "none" apart from "empty".
        digest.update(struct.pack("<q", -1 if data is None else len(data)) + (data or b""))
    return digest.digest()


def _recipe_bytes(recipe: Recipe) -> bytes:
    return json.dumps(recipe.to_dict(), sort_keys=True).encode()
