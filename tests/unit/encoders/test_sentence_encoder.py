"""Sentence vectors: those of the encoder itself, in batches that hold little padding."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from embedspace.encoders import SentenceEncoder, load_sentence_encoder, sentence_vectors

SHORT_BUT_MANY_TOKENS = [f"a b {number} c d e f g" for number in range(8)]
LONG_BUT_FEW_TOKENS = [
    f"{word} international responsibilities" for word in ("seven", "eight", "nine", "ten") * 2
]


def test_an_encoder_is_loaded_once_in_a_process_and_computes_in_float32():
    model = load_sentence_encoder("all-minilm-l6-v2")
    assert SentenceEncoder("all-minilm-l6-v2").model is SentenceEncoder().model is model
    assert {each.dtype for each in model.parameters()} == {torch.float32}


def test_vectors_are_those_of_the_encoder_in_the_order_of_the_texts():
    model = load_sentence_encoder("all-minilm-l6-v2")
    texts = [*SHORT_BUT_MANY_TOKENS, "", *LONG_BUT_FEW_TOKENS]
    done = []
    vectors = sentence_vectors(model, texts, batch_size=4, advance=lambda: done.append(1))
    np.testing.assert_allclose(vectors, model.encode(texts, normalize_embeddings=True), atol=1e-6)
    assert len(done) == len(texts)
    assert sentence_vectors(model, []).shape == (0, 384)


def test_texts_of_equally_many_tokens_are_encoded_together(monkeypatch):
    model = load_sentence_encoder("all-minilm-l6-v2")
    batches, encode = [], model.encode
    monkeypatch.setattr(
        model, "encode", lambda texts, **how: batches.append(set(texts)) or encode(texts, **how)
    )
    texts = [text for pair in zip(SHORT_BUT_MANY_TOKENS, LONG_BUT_FEW_TOKENS, strict=True) for text in pair]
    sentence_vectors(model, texts, batch_size=8)
    assert batches == [set(SHORT_BUT_MANY_TOKENS), set(LONG_BUT_FEW_TOKENS)]


def test_an_encoder_without_a_tokenizer_of_transformers_is_served_too():
    tokenizer = load_sentence_encoder("all-minilm-l6-v2").tokenizer.backend_tokenizer
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)])
    texts = ["one two three", "four", "five six"]
    np.testing.assert_allclose(
        sentence_vectors(model, texts, batch_size=2),
        model.encode(texts, normalize_embeddings=True),
        atol=1e-6,
    )
