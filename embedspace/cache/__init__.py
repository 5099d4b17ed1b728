"""EmbeddingCache: prompts kept on disk."""

from embedspace.cache.cache import EmbeddingCache
from embedspace.cache.database import PAGE_BYTES

__all__ = [
    "PAGE_BYTES",
    "EmbeddingCache",
]
