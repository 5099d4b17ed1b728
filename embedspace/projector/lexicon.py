"""The words that a lexical head may choose from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedspace.space import EmbeddingSpace


def content_words(space: EmbeddingSpace, texts: Sequence[str], least: int = 3) -> list[int]:
    """Tokens that begin a word of at least two letters, in at least ``least`` texts, stop words left out."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    counts = Counter(token for text in texts for token in set(space.tokenize(f" {text}")))
    anchor = space.tokenize("a")
    before = len(space.tokenizer.decode(anchor))
    words = []
    for token, count in sorted(counts.items()):
        if count >= least:
            word = space.tokenizer.decode([*anchor, token])[before:]
            plain = word.strip()
            if (
                word[:1] == " "
                and len(plain) > 1
                and plain.isalpha()
                and plain.lower() not in ENGLISH_STOP_WORDS
            ):
                words.append(token)
    return words
