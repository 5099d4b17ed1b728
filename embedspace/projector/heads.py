"""Heads: how a sentence vector becomes soft tokens. One class each, chosen by name in the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedspace.space import EmbeddingSpace

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.projector.config import ProjectorConfig
    from embedspace.space import EmbeddingSpace


_WORDS_AT_ONCE = 1024
"""Candidates that a processor scores together: few enough that their scores stay in its cache."""


def away_from_mean(
    directions: Float[Tensor, "... hidden"], mean: Float[Tensor, " hidden"], norm: Tensor
) -> Float[Tensor, "... hidden"]:
    """Rows of a given norm that lie from the vocabulary's mean in the given directions.

    Rows far shorter than those of the vocabulary tell a model nothing. The distance is the positive root of
    ``|mean + distance * direction| = norm``, which exists since the mean of rows is shorter than rows are.
    """
    units = F.normalize(directions, dim=-1)
    along = (units * mean).sum(dim=-1, keepdim=True)
    distance = (along.square() + norm.square() - mean.square().sum()).clamp_min(0).sqrt() - along
    return mean + distance * units


class _Regression(nn.Module):
    """A head that says where each soft token lies from the mean row; ``body`` is the subclass's network."""

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
        """Soft tokens less the mean row, before their norm is set."""
        directions: Tensor = self.body(vectors).unflatten(1, (self.tokens, self.hidden_size))
        return directions


class Ridge(_Regression):
    """Ridge regression in closed form (Hoerl and Kennard 1970) to the mean rows of each part of a sentence."""

    def __init__(self, config: ProjectorConfig, space: EmbeddingSpace | None = None) -> None:
        super().__init__(config, space, nn.Linear(config.features, config.tokens * config.hidden_size))
        self.requires_grad_(False)

    def fit(
        self,
        vectors: Float[Tensor, "sentences features"],
        targets: Float[Tensor, "sentences tokens hidden"],
        penalty: float = 1.0,
    ) -> None:
        """Solve for the weights; ``targets`` are rows less the mean row."""
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
    """Rows of the words that the sentence likely holds, moved by a small transformer that sees them all.

    A network scores words of the vocabulary by the product of their rows with a query. The rows of the likeliest
    ``tokens`` words are the soft tokens before the language model was ever asked; people can read them.
    What the transformer adds is zero before distillation and trained by it.

    Options:
        candidates: number of words that can be chosen.
        query_width: units of the network that makes the query (1024).
        width: of the transformer (256); layers: how many (2).
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
        # The rows are the language model's own: they come from its table and are not stored here.
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
        """Set the words that can be chosen, by token id."""
        self.words.copy_(words)
        self.rows = torch.empty(0)

    def attach(self, space: EmbeddingSpace) -> None:
        """Take the candidates' rows from the language model's table."""
        if not len(self.rows):
            self.rows = space.table.lookup(self.words.long().cpu()).float().to(self.bias.device)
            self.mean = space.mean.to(self.bias.device)

    def scores(self, vectors: Float[Tensor, "batch features"]) -> Float[Tensor, "batch candidates"]:
        """How much likelier than others each candidate word is in the sentence: log-odds, but for a constant."""
        query = self.query(vectors)
        scores: Tensor = F.linear(query, self.rows.to(query), self.bias.to(query))
        return scores

    @torch.no_grad()
    def likeliest(self, vectors: Float[Tensor, "batch features"]) -> Int[Tensor, "batch tokens"]:
        """Places of the ``tokens`` candidates of the highest scores, highest first.

        On a processor a piece of the candidates at a time: two thirds of the time of all at once, and 1,024 scores
        a sentence in memory.
        """
        query = self.query(vectors)
        rows, bias = self.rows.to(query), self.bias.to(query)
        at_once = _WORDS_AT_ONCE if query.device.type == "cpu" else len(rows)
        scores, places = [], []
        for start in range(0, len(rows), at_once):
            piece = slice(start, start + at_once)
            piece_scores = F.linear(query, rows[piece], bias[piece])
            top = piece_scores.topk(min(self.tokens, piece_scores.shape[1]), dim=-1)
            scores.append(top.values)
            places.append(top.indices + start)
        order = torch.cat(scores, dim=-1).topk(self.tokens, dim=-1).indices
        return torch.cat(places, dim=-1).gather(-1, order)

    def forward(self, vectors: Float[Tensor, "batch features"]) -> Float[Tensor, "batch tokens hidden"]:
        """Moved rows of the likeliest words, likeliest first; each keeps the norm of its row."""
        rows = self.rows[self.likeliest(vectors)]
        seen = self.row_in(rows - self.mean) + self.sentence_in(vectors).unflatten(1, (self.tokens, -1))
        moved = rows + self.row_out(self.body(seen))
        norms: Tensor = rows.norm(dim=-1, keepdim=True)
        return norms * F.normalize(moved, dim=-1)


Head = Ridge | Linear | MLP | Lexical

HEADS: dict[str, type[Head]] = {"ridge": Ridge, "linear": Linear, "mlp": MLP, "lexical": Lexical}
"""Every head by its name in a configuration."""


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
