"""StyleVector: a direction in embedding space that changes a prompt's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from embedspace._util.files import atomic_write
from embedspace._util.notebook import block, facts, table
from embedspace.prompt import (
    PromptEmbeds,
    Recipe,
    Rows,
    Value,
    in_blocks,
    mask_as_text,
    require_finite,
    row_mask,
    tensor_digest,
)
from embedspace.space import find_space, token_texts
from embedspace.style.directions import (
    DIRECTIONS,
    Direction,
    Example,
    example_rows,
    fit_direction,
    fit_recipe,
)
from embedspace.style.file import read_vector, write_vector
from embedspace.style.sharing import HUB_FILE, card_text, vector_file

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from embedspace.distillation import Distillation, Optimisation
    from embedspace.engines import TransformersEngine
    from embedspace.space import EmbeddingSpace

Method = Direction | Literal["optimised"]
_SHOWN_WORDS = 8


@dataclass(frozen=True, eq=False)
class StyleVector:
    """A direction that, added to a prompt's content rows, changes its style and keeps its length.

    Vectors are values: they can be added, subtracted, scaled and compared.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> formal = StyleVector.fit(space, ["Good evening, sir.", "I beg your pardon?"], ["Hey dude!", "What's up?"])
    >>> prompt = space.embed("Tell me about bread.").to(torch.float32)
    >>> shift = formal.apply(prompt, alpha=0.5).vectors - prompt.vectors
    >>> round(float(shift[0].norm()) / formal.norm, 3)
    0.5
    >>> (formal - formal).norm, (2 * formal).similarity(formal) > 0.999
    (0.0, True)

    Raises:
        TypeError: ``vector`` is not a float32 tensor.
        ValueError: ``vector`` is not of shape ``[hidden]`` or not finite.
    """

    vector: Float[Tensor, " hidden"]
    """The direction, float32; its norm is the distance that ``alpha=1`` moves a row."""
    space: str
    """Fingerprint of the :class:`~embedspace.EmbeddingSpace` that it was fitted in."""
    method: str
    """A method of :meth:`fit`, ``distilled``, ``random``, or ``algebra``."""
    recipe: Recipe
    """The method's parameters and the examples."""
    rows: Rows = "content"
    """Which rows :meth:`apply` moves where it is not told: those that the vector was learnt on."""

    def __post_init__(self) -> None:
        if not isinstance(self.vector, torch.Tensor) or self.vector.dtype != torch.float32:
            kind = getattr(self.vector, "dtype", type(self.vector).__name__)
            raise TypeError(f"vector must be a float32 tensor [hidden], got {kind}")
        if self.vector.ndim != 1 or not len(self.vector):
            raise ValueError(f"vector must have shape [hidden], got {list(self.vector.shape)}")
        if not bool(self.vector.isfinite().all()):
            raise ValueError("a style vector must be finite, got NaN or infinity")

    @classmethod
    def fit(
        cls,
        space: EmbeddingSpace,
        positive: Sequence[Example],
        negative: Sequence[Example],
        *,
        method: Method = "mean_difference",
        optimisation: Optimisation | None = None,
    ) -> StyleVector:
        """Find the direction from negative to positive examples.

        What it can do: rank and measure. The direction changes how likely the first words of an answer are, and
        vectors can be compared and combined. What it cannot do: a direction between a few sentences (every method but
        ``optimised``) hardly ever changes a whole answer, and at the norms at which it does, it breaks the text. For
        answers that visibly change, use :meth:`distill`.

        The result does not depend on the order of the examples (for ``pca`` of pairs: of the pairs), and swapping the
        sides negates it exactly. Examples have equal weights, whatever their lengths. All methods but ``optimised``
        return a vector of the mean difference's norm, so that alpha has the same scale.

        Args:
            space: where the examples are embedded.
            positive: at least two texts (or embedded prompts) in the style.
            negative: at least two texts without it; any number, any lengths.
            method: ``mean_difference`` of the examples' mean rows (Subramani et al. 2022, Turner et al.
                2023); ``pca``, the first principal direction of the paired differences where the lists have
                equal lengths and of the pooled examples otherwise (Zou et al. 2023); ``logistic``, the
                normal of the plane that separates the sides; ``optimised``, by gradient through the frozen model,
                where the examples are answers: see :class:`~embedspace.distillation.Optimisation`.
            optimisation: the engine, the prompts and the settings of ``optimised``.

        Raises:
            TypeError: an example that is neither a string nor a prompt.
            ValueError: fewer than two examples on a side, an empty, infinite or foreign one, an unknown
                method, or sides whose means are equal.
        """
        if method != "optimised" and method not in DIRECTIONS:
            raise ValueError(
                f"unknown method {method!r}; allowed are {', '.join([*DIRECTIONS, 'optimised'])}"
            )
        if (method == "optimised") != (optimisation is not None):
            raise ValueError(
                "method='optimised' needs optimisation=Optimisation(engine, prompts, ...), and only that method takes "
                f"one; got method={method!r} and optimisation={optimisation!r}"
            )
        if optimisation is not None:
            from embedspace.distillation import optimise

            found, recipe = optimise(space, positive, negative, optimisation)
            return cls(found, space.fingerprint, method, recipe)
        assert method != "optimised"
        high, low = example_rows(space, positive, "positive"), example_rows(space, negative, "negative")
        recipe = fit_recipe(method, positive, negative)
        return cls(fit_direction(high, low, method), space.fingerprint, method, recipe)

    @classmethod
    def distill(
        cls,
        engine: TransformersEngine,
        instruction: str,
        questions: Sequence[str] | None = None,
        *,
        examples: Sequence[tuple[str, str]] = (),
        rows: Rows = "last",
        norm: float | None = None,
        settings: Distillation | None = None,
    ) -> StyleVector:
        """Learn one vector that makes the frozen model answer as it does under an instruction.

        The model answers questions with the instruction before them. The vector is found by gradient: the plain
        question, moved, has to give the same distribution of every next token (prompt distillation; Askell et al.
        2021, Snell et al. 2022). :meth:`apply` moves the rows that it was learnt on.

        Args:
            engine: the frozen model, in process.
            instruction: what the answers shall be like, e.g. ``"Answer like a pirate."``.
            questions: what it is learnt on, at least two; packaged general ones by default. None of them should be
                one that the vector is judged on.
            examples: questions with answers in the style, which stand before each question of the teacher.
            rows: which rows of a question are moved; ``last`` keeps all words of it.
            norm: upper bound of the vector's norm; by default 1.4 times the vocabulary's mean row norm.
            settings: of the distillation.

        Raises:
            TypeError: an engine without gradients, or texts that are no strings.
            ValueError: an empty instruction, fewer than two questions, a norm out of range, or no vector that helps.
            EngineError: the device ran out of memory.
        """
        from embedspace.distillation import distill_instruction

        vector, recipe = distill_instruction(engine, instruction, questions, examples, rows, norm, settings)
        return cls(vector, engine.space.fingerprint, "distilled", recipe, rows)

    @classmethod
    def random(cls, space: EmbeddingSpace, *, norm: float, seed: int) -> StyleVector:
        """A vector of random direction and given norm, the control for style vectors.

        Raises:
            ValueError: the norm is not positive and finite.
        """
        if not (math.isfinite(norm) and norm > 0):
            raise ValueError(
                f"norm must be positive and finite, got {norm!r}; use the norm of the fitted vector"
            )
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(space.hidden_size, generator=generator, dtype=torch.float64)
        recipe = Recipe.of("random_style", {"norm": norm, "seed": seed})
        return cls((norm * drawn / drawn.norm()).float(), space.fingerprint, "random", recipe)

    @property
    def norm(self) -> float:
        """Euclidean norm."""
        return float(self.vector.double().norm())

    @cached_property
    def digest(self) -> str:
        """Content hash of the direction."""
        return tensor_digest(self.vector)

    def __repr__(self) -> str:
        return f"StyleVector({self.method}, hidden {len(self.vector)}, norm {self.norm:.3f}, {self.recipe})"

    def _repr_html_(self) -> str:
        """For notebooks: the words that lie in the direction and against it, where the space is loaded."""
        values = {
            "method": self.method,
            "hidden": len(self.vector),
            "norm": f"{self.norm:.3f}",
            "rows": self.rows,
        }
        head = facts("StyleVector", values | {"made by": self.recipe})
        space = find_space(self.space)
        if space is None or self.norm == 0:
            return block(head)
        ids, cosines = space.nearest(space.mean + torch.stack([self.vector, -self.vector]), k=_SHOWN_WORDS)
        columns = [
            [f"{text!r} {cosine:.2f}" for text, cosine in zip(token_texts(space, own), near, strict=True)]
            for own, near in zip(ids.tolist(), cosines.tolist(), strict=True)
        ]
        return block(
            head + table(["words it points to (cosine)", "and away from"], list(zip(*columns, strict=True)))
        )

    def apply(
        self,
        prompt: PromptEmbeds,
        alpha: float = 1.0,
        *,
        rows: Rows | Bool[Tensor, " tokens"] | None = None,
    ) -> PromptEmbeds:
        """The prompt with ``alpha`` times the vector added to its rows; all other rows stay bit-identical.

        Args:
            prompt: lives in the vector's space.
            alpha: steering strength; 0 changes nothing, a negative one steers in the opposite direction.
            rows: ``content``, ``last`` (the last content row), ``template``, ``all``, or a boolean mask with one entry
                per row; by default the vector's own :attr:`rows`.

        Raises:
            ValueError: another space, alpha or rows of the prompt not finite, or no rows to move.
        """
        if prompt.space != self.space:
            raise ValueError(
                f"the prompt lives in the space {prompt.space}, the style vector in {self.space}; "
                "fit the vector in the space of the model that generates"
            )
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be a finite number, got {alpha!r}")
        rows = self.rows if rows is None else rows
        mask = row_mask(prompt, rows)
        require_finite(prompt, "a style shift")
        shift = alpha * self.vector
        vectors = prompt.vectors
        if bool(shift.any()):  # adding 0.0 would turn -0.0 into 0.0
            shift = shift.to(vectors.device)
            # Blocks of another dtype are copies already, so the shift can be added in place.
            add = torch.Tensor.add if vectors.dtype == torch.float32 else torch.Tensor.add_
            moved = in_blocks(lambda rows: add(rows, shift), vectors)
            vectors = moved if bool(mask.all()) else torch.where(mask[:, None], moved, vectors)
        parameters: dict[str, Value] = {
            "method": self.method,
            "vector": self.digest,
            "alpha": float(alpha),
            "rows": rows if isinstance(rows, str) else mask_as_text(rows),
        }
        recipe = Recipe.of("style", parameters, prompt.recipe, self.recipe)
        return PromptEmbeds(vectors, prompt.content, prompt.space, recipe)

    def similarity(self, other: StyleVector) -> float:
        """Cosine of the angle to another vector of the same space, -1 to 1.

        Raises:
            ValueError: another space, or a vector of norm zero.
        """
        self._require_same_space(other)
        norms = self.norm * other.norm
        if norms == 0:
            raise ValueError("similarity with a zero vector is not defined; one of the two has norm 0")
        return float(self.vector.double() @ other.vector.double()) / norms

    def __neg__(self) -> StyleVector:
        return self._derived(-self.vector, "negate", {})

    def __add__(self, other: StyleVector) -> StyleVector:
        if not isinstance(other, StyleVector):
            return NotImplemented
        self._require_same_space(other)
        return self._derived(self.vector + other.vector, "add", {}, other)

    def __sub__(self, other: StyleVector) -> StyleVector:
        if not isinstance(other, StyleVector):
            return NotImplemented
        self._require_same_space(other)
        return self._derived(self.vector - other.vector, "subtract", {}, other)

    def __mul__(self, factor: float) -> StyleVector:
        if not isinstance(factor, int | float):
            return NotImplemented
        _require_finite_factor(factor)
        return self._derived(factor * self.vector, "scale", {"factor": float(factor)})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> StyleVector:
        if not isinstance(divisor, int | float):
            return NotImplemented
        _require_finite_factor(divisor)
        if divisor == 0:
            raise ValueError("a style vector cannot be divided by 0")
        return self._derived(self.vector / divisor, "divide", {"divisor": float(divisor)})

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically, with space, method and recipe in the metadata."""
        write_vector(Path(path), self.vector, self.space, self.method, self.recipe, self.rows)

    @classmethod
    def load(cls, path: str | Path, space: EmbeddingSpace) -> StyleVector:
        """Read a vector that :meth:`save` wrote.

        Raises:
            ValueError: no such file, a damaged one or one of another format, or a vector of another space.
        """
        return cls(*read_vector(Path(path), space))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, space: EmbeddingSpace, *, revision: str | None = None
    ) -> StyleVector:
        """A vector that ships with the package, a file, or a vector on the hub.

        >>> from embedspace import EmbeddingSpace
        >>> cheerful = StyleVector.from_pretrained("cheerful", EmbeddingSpace.from_pretrained("smollm2-135m-instruct"))
        >>> cheerful.rows, round(cheerful.norm, 1)
        ('last', 4.2)

        Args:
            name: packaged name (:func:`embedspace.style.packaged_vectors`), file, folder that holds a
                ``style_vector.safetensors``, or hub id.
            space: the space of the model that it was learnt for.
            revision: branch, tag or commit on the hub.

        Raises:
            ValueError: as :meth:`load`, or the hub's refusal.
        """
        return cls.load(vector_file(name, revision), space)

    def push_to_hub(self, repository: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the vector with a card; needs a login (``hf auth login``) or a token.

        The file and the card hold the examples or the instruction: whoever gets them can read these.

        Args:
            repository: ``owner/name``; it is made if there is none.
            private: whether a repository that is made is private.
            token: of the hub.

        Returns:
            The address of the commit.
        """
        from embedspace.models import upload_folder

        def write(folder: Path) -> None:
            self.save(folder / HUB_FILE)
            card = card_text(
                self.space, hidden=len(self.vector), norm=self.norm, method=self.method, rows=self.rows,
                recipe=self.recipe,
            )  # fmt: skip
            atomic_write(folder / "README.md", card)

        return upload_folder(write, repository, what="a style vector", private=private, token=token)

    def _require_same_space(self, other: StyleVector) -> None:
        if self.space != other.space:
            raise ValueError(
                f"style vectors of different embedding spaces cannot be combined: {self.space} and {other.space}"
            )

    def _derived(
        self, vector: Tensor, operation: str, parameters: dict[str, float], *others: StyleVector
    ) -> StyleVector:
        recipe = Recipe.of(operation, parameters, self.recipe, *(other.recipe for other in others))
        alike = all(other.rows == self.rows for other in others)
        return StyleVector(vector, self.space, "algebra", recipe, self.rows if alike else "content")


def _require_finite_factor(factor: float) -> None:
    if not math.isfinite(factor):
        raise ValueError(f"a style vector can only be scaled by a finite number, got {factor!r}")
