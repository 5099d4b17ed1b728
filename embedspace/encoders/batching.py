"""Sentence vectors: what a loaded sentence-transformers model makes of texts, those of equally many tokens together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_COUNTED_AT_ONCE = 4096


@cache
def sentence_encoder(name: str) -> Any:
    """A sentence-transformers model by packaged name, local folder or hub id, loaded once in a process."""
    from sentence_transformers import SentenceTransformer

    from embedspace.models import resolve

    return SentenceTransformer(str(resolve(name)), local_files_only=True)


def sentence_vectors(
    model: Any,
    texts: Sequence[str],
    *,
    batch_size: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Float[Tensor, "texts features"]:
    """Vectors of length 1, float32, on the CPU.

    A batch costs what its longest text costs. sentence-transformers puts texts of like length in characters together,
    and computes a third more tokens than ordinary sentences have; of like length in tokens, hardly any more.

    Args:
        model: a loaded ``SentenceTransformer``.
        texts: what to encode.
        batch_size: texts that are encoded together; by default 32 on a processor and 1,024 on another device.
        advance: is called once for each text that is done.
    """
    import torch

    if batch_size is None:
        batch_size = 32 if model.device.type == "cpu" else 1024
    order = list(range(len(texts)))
    if len(texts) > batch_size:
        lengths = _lengths(model, texts)
        order.sort(key=lambda place: -lengths[place])
    vectors = torch.empty(len(texts), model.get_embedding_dimension())
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        made = model.encode(
            [texts[place] for place in places],
            batch_size=batch_size,
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        vectors[places] = made.float().cpu()
        for _ in places:
            advance()
    return vectors


def _lengths(model: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, or its characters where the model's tokenizer is not one of transformers'."""
    from transformers import PreTrainedTokenizerBase

    tokenizer = model.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return list(map(len, texts))
    lengths: list[int] = []
    for start in range(0, len(texts), _COUNTED_AT_ONCE):
        # With the settings of the encoding itself: a tokenizer whose settings change is not safe among threads.
        counted = tokenizer(
            list(texts[start : start + _COUNTED_AT_ONCE]),
            padding=True,
            truncation="longest_first",
            return_attention_mask=True,
            return_tensors="np",
        )
        lengths += counted["attention_mask"].sum(axis=1).tolist()
    return lengths
