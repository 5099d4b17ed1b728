"""Sentence encoders, loaded and batched in one way."""

from embedspace.encoders.sentence_encoder import SentenceEncoder, load_sentence_encoder, sentence_vectors

__all__ = [
    "SentenceEncoder",
    "load_sentence_encoder",
    "sentence_vectors",
]
