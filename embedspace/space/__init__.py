"""EmbeddingSpace: table, tokenizer, chat template, nearest rows and shared prefixes of one model."""

from embedspace.space.chat_template import Message, content_mask, render_with_spans
from embedspace.space.embedding_space import EmbeddingSpace, content_fingerprint, space_of
from embedspace.space.nearest_rows import ReadBack, distances, nearest_tokens, read_back, token_ids
from embedspace.space.shared_prefix import PrefixedPrompts
from embedspace.space.table import EmbeddingTable, read_config
from embedspace.space.tokenizer import Tokenizer

__all__ = [
    "EmbeddingSpace",
    "EmbeddingTable",
    "Message",
    "PrefixedPrompts",
    "ReadBack",
    "Tokenizer",
    "content_fingerprint",
    "content_mask",
    "distances",
    "nearest_tokens",
    "read_back",
    "read_config",
    "render_with_spans",
    "space_of",
    "token_ids",
]
