"""Query: the question that a compressed prompt is to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedspace.compression.passages import ContentText
from embedspace.compression.relevance import Terms
from embedspace.compression.text_units import Units
from embedspace.prompt import PromptEmbeds, Recipe, Value, require_content, require_finite
from embedspace.space import RowText, token_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from numpy import ndarray
    from torch import Tensor

    from embedspace.encoders import SentenceEncoder


@dataclass(frozen=True, eq=False)
class Query:
    """A question in terms that passages are compared by."""

    terms: Terms
    rows: Bool[Tensor, " tokens"]
    """The prompt's rows that hold the question itself, where it stands last; none where it does not stand there."""
    text: str
    """What its rows read as."""
    written: str | None
    """As the caller wrote it; None for a question given as a prompt."""
    recipe: Recipe | None
    """How a question given as a prompt was made."""
    encoder: SentenceEncoder | None
    """Compares whole sentences with it."""

    @classmethod
    def of(
        cls, content: ContentText, query: str | PromptEmbeds, encoder: SentenceEncoder | None = None
    ) -> Query:
        """A query to a prompt.

        Raises:
            ValueError: an empty text, or a prompt without content, not finite, or of another space.
            TypeError: neither a text nor a prompt.
        """
        space = content.space
        if isinstance(query, str):
            if not query.strip():
                raise ValueError(f"query is {query!r}; give the question's text, or leave query out")
            # As its words stand within a sentence.
            ids = space.tokenize(f" {query.strip()}")
            rows, written, recipe = space.lookup(ids), query, None
        elif isinstance(query, PromptEmbeds):
            space.require(query)
            require_content(query, "a query")
            require_finite(query, "a query")
            rows, written, recipe = query.content_vectors, None, query.recipe
            ids = token_ids(space, rows).tolist()
        else:
            raise TypeError(f"query must be a text or a PromptEmbeds, got a {type(query).__name__}")
        text = RowText.of(space, ids)
        terms = Terms.of(Units.of(text), ids, rows, space.mean, space.vocab_size)
        own = text.text.strip()
        return cls(terms, content.find_sentence(own), own, written, recipe, encoder)

    def cosines(self, sentences: Sequence[str]) -> Float[ndarray, " sentences"] | None:
        """Similarity of sentences to the question under the encoder; None without one, or of nothing that is read."""
        if self.encoder is None or not self.text:
            return None
        vectors = self.encoder.encode([self.text, *(sentence.strip() or "." for sentence in sentences)])
        return (vectors[1:] @ vectors[0]).numpy()

    def parameters(self, matched: bool) -> dict[str, Value]:
        """What a recipe records."""
        found: dict[str, Value] = {"matched": matched}
        if self.written is not None:
            found["query"] = self.written
        if self.encoder is not None:
            found |= {"encoder": self.encoder.name, "encoder_fingerprint": self.encoder.fingerprint}
        return found

    @property
    def recipes(self) -> list[Recipe]:
        """The recipes that a recipe records as inputs."""
        return [] if self.recipe is None else [self.recipe]
