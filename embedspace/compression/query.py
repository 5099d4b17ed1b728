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
    from jaxtyping import Bool
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Query:
    """A question in terms that passages are compared by."""

    terms: Terms
    rows: Bool[Tensor, " tokens"]
    """The prompt's rows that hold the question itself, where it stands last; none where it does not stand there."""
    text: str | None
    """As the caller wrote it; None for a question given as a prompt."""
    recipe: Recipe | None
    """How a question given as a prompt was made."""

    @classmethod
    def of(cls, content: ContentText, query: str | PromptEmbeds) -> Query:
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
        return cls(terms, content.find_sentence(text.text.strip()), written, recipe)

    def parameters(self, matched: bool) -> dict[str, Value]:
        """What a recipe records."""
        return {"matched": matched} | ({} if self.text is None else {"query": self.text})

    @property
    def recipes(self) -> list[Recipe]:
        """The recipes that a recipe records as inputs."""
        return [] if self.recipe is None else [self.recipe]
