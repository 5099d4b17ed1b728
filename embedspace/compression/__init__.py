"""Compression: a prompt in fewer content rows."""

from embedspace.compression.methods import SALIENCE_VERSION, Method, compress
from embedspace.compression.pooling import averaged
from embedspace.compression.relevance import sentence_starts

__all__ = [
    "SALIENCE_VERSION",
    "Method",
    "averaged",
    "compress",
    "sentence_starts",
]
