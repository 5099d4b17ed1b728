"""Heads of projectors: modules from sentence vectors to soft tokens, chosen by name in the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from embedspace.space import token_texts

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.projector.config import ProjectorConfig
    from embedspace.space import EmbeddingSpace

_CANDIDATES_BATCH_SIZE = 1024
"""Candidates scored together on a CPU: few enough that their scores stay in its cache."""


def away_from_mean(
    directions: Float[Tensor, "... hidden"], mean: Float[Tensor, " hidden"], norm: Tensor
) -> Float[Tensor, "... hidden"]:
    """Rows of a given norm that lie in the given directions from the vocabulary's mean.

    A model ignores rows that are far shorter than those of the vocabulary. The distance from the mean is the positive
    root of ``|mean + distance * direction| = norm``, which exists since the mean row is shorter than ``norm``.

    >>> away_from_mean(torch.tensor([0.0, 2.0]), torch.tensor([3.0, 0.0]), torch.tensor(5.0)).tolist()
    [3.0, 4.0]
    """
    units = F.normalize(directions, dim=-1)
    along = (units * mean).sum(dim=-1, keepdim=True)
    distance = (along.square() + norm.square() - mean.square().sum()).clamp_min(0).sqrt() - along
    return mean + distance * units


class _Regression(nn.Module):
    """A head that predicts the direction of each soft token from the mean row; ``body`` is the subclass's network."""

    mean: Tensor
    norm: Tensor

    def __init__(self, config: ProjectorConfig, space: EmbeddingSpace | None, body: nn.Module) -> None:
        super().__init__()
        self.tokens, self.hidden_size = config.tokens, config.hidden_size
        self.body = body
        self.register_buffer("mean", torch.zeros(config.hidden_size) if space is None else space.mean.clone())
        self.register_buffer("norm", torch.ones(()) if space is None else space.norms.mean())

    def forward(self, vectors: Float[Tensor, "batch features"]) -> Float[Tensor, "batch tokens hidden"]:
        """Soft tokens of the vocabulary's mean norm."""
        return away_from_mean(self.directions(vectors), self.mean, self.norm)

    def directions(self, vectors: Float[Tensor, "batch features"]) -> Float[Tensor, "batch tokens hidden"]:
        """Soft tokens minus the mean row, before normalisation."""
        directions: Tensor = self.body(vectors).unflatten(1, (self.tokens, self.hidden_size))
        return directions


class Ridge(_Regression):
    """Ridge regression in closed form (Hoerl and Kennard 1970) to the mean row of each part of a sentence."""

    def __init__(self, config: ProjectorConfig, space: EmbeddingSpace | None = None) -> None:
        super().__init__(config, space, nn.Linear(config.features, config.tokens * config.hidden_size))
        self.requires_grad_(False)

    def fit(
        self,
        vectors: Float[Tensor, "sentences features"],
        targets: Float[Tensor, "sentences tokens hidden"],
        penalty: float = 1.0,
    ) -> None:
        """Solve for the weights; ``targets`` are rows minus the mean row."""
        X, Y = vectors.double(), targets.flatten(1).double()
        x, y = X.mean(dim=0), Y.mean(dim=0)
        gram = (X - x).T @ (X - x) + penalty * torch.eye(X.shape[1], dtype=X.dtype)
        weight = torch.linalg.solve(gram, (X - x).T @ (Y - y)).T
        assert isinstance(self.body, nn.Linear)
        self.body.weight.data.copy_(weight)
        self.body.bias.data.copy_(y - weight @ x)


class Linear(_Regression):
    """One matrix, trained by gradient."""

    def __init__(self, config: ProjectorConfig, space: EmbeddingSpace | None = None) -> None:
        super().__init__(config, space, nn.Linear(config.features, config.tokens * config.hidden_size))


class MLP(_Regression):
    """Two layers. Option ``width``: units between them (512)."""

    def __init__(self, config: ProjectorConfig, space: EmbeddingSpace | None = None) -> None:
        width = config.options.get("width", 512)
        super().__init__(
            config,
            space,
            nn.Sequential(
                nn.Linear(config.features, width),
                nn.GELU(),
                nn.LayerNorm(width),
                nn.Linear(width, config.tokens * config.hidden_size),
            ),
        )


class Lexical(nn.Module):
    """Rows of the words that the sentence likely contains, adjusted jointly by a small transformer.

    A network scores words of the vocabulary by the product of their rows with a query. The rows of the ``tokens``
    likeliest words are the initial soft tokens, readable as words. The transformer's output is zero before
    distillation, which trains it.

    Options:
        candidates: number of words to choose from.
        query_width: hidden units of the query network (1024).
        width: of the transformer (256).
        layers: of the transformer (2).
    """

    words: Tensor
    rows: Tensor

    def __init__(self, config: ProjectorConfig, space: EmbeddingSpace | None = None) -> None:
        super().__init__()
        options, hidden = config.options, config.hidden_size
        self.tokens, width = config.tokens, options.get("width", 256)
        query_width, count = options.get("query_width", 1024), options.get("candidates", 1)
        self.query = nn.Sequential(
            nn.Linear(config.features, query_width),
            nn.GELU(),
            nn.LayerNorm(query_width),
            nn.Linear(query_width, hidden),
        )
        self.bias = nn.Parameter(torch.zeros(count))
        self.register_buffer("words", torch.zeros(count, dtype=torch.int32))
        # The rows come from the language model's table and are not stored.
        self.register_buffer("rows", torch.empty(0), persistent=False)
        self.register_buffer(
            "mean", torch.zeros(hidden) if space is None else space.mean.clone(), persistent=False
        )
        self.row_in = nn.Linear(hidden, width)
        self.sentence_in = nn.Linear(config.features, config.tokens * width)
        layer = nn.TransformerEncoderLayer(
            width, nhead=max(1, width // 64), dim_feedforward=4 * width, dropout=0.0,
            activation="gelu", batch_first=True, norm_first=True,
        )  # fmt: skip
        self.body = nn.TransformerEncoder(layer, options.get("layers", 2), enable_nested_tensor=False)
        self.row_out = nn.Linear(width, hidden)
        nn.init.zeros_(self.row_out.weight)
        nn.init.zeros_(self.row_out.bias)

    def choose_from(self, words: Int[Tensor, " candidates"]) -> None:
        """Set the candidate words, by token id."""
        self.words.copy_(words)
        self.rows = torch.empty(0)

    def attach(self, space: EmbeddingSpace) -> None:
        """Load the candidates' rows from the language model's table."""
        if not len(self.rows):
            self.rows = space.table.lookup(self.words.long().cpu()).float().to(self.bias.device)
            self.mean = space.mean.to(self.bias.device)

    def scores(self, vectors: Float[Tensor, "batch features"]) -> Float[Tensor, "batch candidates"]:
        """Log-odds, up to a constant, that each candidate word is in the sentence."""
        query = self.query(vectors)
        scores: Tensor = F.linear(query, self.rows.to(query), self.bias.to(query))
        return scores

    @torch.no_grad()
    def likeliest(self, vectors: Float[Tensor, "batch features"]) -> Int[Tensor, "batch tokens"]:
        """Indices of the ``tokens`` candidates with the highest scores, highest first.

        On a CPU, candidates are scored in batches, which takes two thirds of the time of all at once.
        """
        query = self.query(vectors)
        rows, bias = self.rows.to(query), self.bias.to(query)
        batch_size = _CANDIDATES_BATCH_SIZE if query.device.type == "cpu" else len(rows)
        scores, places = [], []
        for start in range(0, len(rows), batch_size):
            piece = slice(start, start + batch_size)
            piece_scores = F.linear(query, rows[piece], bias[piece])
            top = piece_scores.topk(min(self.tokens, piece_scores.shape[1]), dim=-1)
            scores.append(top.values)
            places.append(top.indices + start)
        order = torch.cat(scores, dim=-1).topk(self.tokens, dim=-1).indices
        return torch.cat(places, dim=-1).gather(-1, order)

    def forward(self, vectors: Float[Tensor, "batch features"]) -> Float[Tensor, "batch tokens hidden"]:
        """Adjusted rows of the likeliest words, likeliest first; each keeps the norm of its row."""
        rows = self.rows[self.likeliest(vectors)]
        seen = self.row_in(rows - self.mean) + self.sentence_in(vectors).unflatten(1, (self.tokens, -1))
        moved = rows + self.row_out(self.body(seen))
        norms: Tensor = rows.norm(dim=-1, keepdim=True)
        return norms * F.normalize(moved, dim=-1)


Head = Ridge | Linear | MLP | Lexical

HEADS: dict[str, type[Head]] = {"ridge": Ridge, "linear": Linear, "mlp": MLP, "lexical": Lexical}
"""Heads by name in a configuration."""


def content_words(space: EmbeddingSpace, texts: Sequence[str], min_texts: int = 3) -> list[int]:
    """Token ids that begin a word of two or more letters in at least ``min_texts`` texts, without stop words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    counts = Counter(token for text in texts for token in set(space.tokenize(f" {text}")))
    frequent = sorted(token for token, count in counts.items() if count >= min_texts)
    words = []
    for token, text in zip(frequent, token_texts(space, frequent), strict=True):
        word = text.strip()
        if text[:1] == " " and len(word) > 1 and word.isalpha() and word.lower() not in ENGLISH_STOP_WORDS:
            words.append(token)
    return words
