"""EmbeddingSpace: table, tokenizer, chat template, nearest rows and shared prefixes of one model."""

from embedspace.space.conversation import (
    Conversation,
    Message,
    chat_recipe,
    text_recipe,
)
from embedspace.space.embedding_space import EmbeddingSpace, find_space, resolve_space
from embedspace.space.embedding_table import EmbeddingTable
from embedspace.space.fingerprint import content_fingerprint
from embedspace.space.kept_rows import embed_recorded_chat, kept_rows
from embedspace.space.message_spans import content_mask
from embedspace.space.nearest_rows import (
    TokenMatches,
    match_tokens,
    nearest_distances,
    nearest_tokens,
    token_ids,
)
from embedspace.space.shared_prefix import PrefixedPrompts
from embedspace.space.template_variables import (
    fixed_template_time,
    recorded_template,
    recorded_times,
    without_times,
)
from embedspace.space.token_strip import strip_of_rows, token_strip
from embedspace.space.token_texts import RowText, token_bytes, token_texts
from embedspace.space.tokenizer import Tokenizer

__all__ = [
    "Conversation",
    "EmbeddingSpace",
    "EmbeddingTable",
    "Message",
    "PrefixedPrompts",
    "RowText",
    "TokenMatches",
    "Tokenizer",
    "chat_recipe",
    "content_fingerprint",
    "content_mask",
    "embed_recorded_chat",
    "find_space",
    "fixed_template_time",
    "kept_rows",
    "match_tokens",
    "nearest_distances",
    "nearest_tokens",
    "recorded_template",
    "recorded_times",
    "resolve_space",
    "strip_of_rows",
    "text_recipe",
    "token_bytes",
    "token_ids",
    "token_strip",
    "token_texts",
    "without_times",
]
