"""Style vectors: directions in embedding space that change a prompt's style."""

from embedspace.style.directions import Direction, examples
from embedspace.style.sharing import packaged_recipe, packaged_vectors
from embedspace.style.vector import StyleVector

__all__ = [
    "Direction",
    "StyleVector",
    "examples",
    "packaged_recipe",
    "packaged_vectors",
]
