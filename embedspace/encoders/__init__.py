"""Sentence encoders, loaded and batched in one way."""

from embedspace.encoders.batching import sentence_encoder, sentence_vectors
from embedspace.encoders.sentence_encoder import SentenceEncoder

__all__ = [
    "SentenceEncoder",
    "sentence_encoder",
    "sentence_vectors",
]
