"""Compression: a prompt in fewer content rows."""

from embedspace.compression.methods import Method, compress
from embedspace.compression.pooling import averaged
from embedspace.compression.token_information import token_texts

__all__ = [
    "Method",
    "averaged",
    "compress",
    "token_texts",
]
