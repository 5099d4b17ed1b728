"""Prompts as rows of an embedding space: the value, how it was made, its forms on the wire. Knows no model."""

from embedspace.prompt.keys import CACHE_FORMAT, PromptStore, cache_key, require_key, transformed_key
from embedspace.prompt.prompt_embeds import PromptEmbeds, require_content, require_finite, require_same_space
from embedspace.prompt.recipe import Recipe, Value
from embedspace.prompt.row_selection import Rows, marked_rows, moved_rows
from embedspace.prompt.rows import evenly_spaced, in_blocks, rows_not_finite, tensor_digest
from embedspace.prompt.wire import decode_prompt_embeds, encode_prompt_embeds, preflight

__all__ = [
    "CACHE_FORMAT",
    "PromptEmbeds",
    "PromptStore",
    "Recipe",
    "Rows",
    "Value",
    "cache_key",
    "decode_prompt_embeds",
    "encode_prompt_embeds",
    "evenly_spaced",
    "in_blocks",
    "marked_rows",
    "moved_rows",
    "preflight",
    "require_content",
    "require_finite",
    "require_key",
    "require_same_space",
    "rows_not_finite",
    "tensor_digest",
    "transformed_key",
]
