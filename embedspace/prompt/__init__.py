"""Prompts as rows of an embedding space: the value, how it was made, its forms on the wire. Knows no model."""

import embedspace._util.forks  # noqa: F401  what forked processes need, before anything computes
from embedspace.prompt.keys import CACHE_FORMAT, PromptStore, cache_key, require_key, transformed_key
from embedspace.prompt.parts import Part, RowSource, message_parts
from embedspace.prompt.prompt_embeds import PromptEmbeds, require_content, require_finite, require_same_space
from embedspace.prompt.recipe import Recipe, Value
from embedspace.prompt.row_selection import (
    Rows,
    add_to_rows,
    mask_as_text,
    mask_from_text,
    require_row_mask,
    row_mask,
)
from embedspace.prompt.rows import describe_nonfinite_rows, evenly_spaced, in_blocks, tensor_digest
from embedspace.prompt.token_strip import (
    MAX_STRIP_ROWS,
    TokenRow,
    TokenStrip,
    read_strip,
    register_reader,
    strip_style,
)
from embedspace.prompt.wire import (
    decode_prompt_embeds,
    encode_checked_vectors,
    encode_prompt_embeds,
    preflight,
)

__all__ = [
    "CACHE_FORMAT",
    "MAX_STRIP_ROWS",
    "Part",
    "PromptEmbeds",
    "PromptStore",
    "Recipe",
    "RowSource",
    "Rows",
    "TokenRow",
    "TokenStrip",
    "Value",
    "add_to_rows",
    "cache_key",
    "decode_prompt_embeds",
    "describe_nonfinite_rows",
    "encode_checked_vectors",
    "encode_prompt_embeds",
    "evenly_spaced",
    "in_blocks",
    "mask_as_text",
    "mask_from_text",
    "message_parts",
    "preflight",
    "read_strip",
    "register_reader",
    "require_content",
    "require_finite",
    "require_key",
    "require_row_mask",
    "require_same_space",
    "row_mask",
    "strip_style",
    "tensor_digest",
    "transformed_key",
]
