"""The learned heads of `lite`: residuals on the towers' image and text embeddings.

Several pairs of heads form an ensemble: they start from different weights, learn side by side, and err in different
places. `fitting.embedder` reduces their embeddings to one of 384 components, which keeps nearly all of the ensemble's
gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import gelu, normalize

from retrieval.training.data.sizes import CELLS, CHANNELS, CLASSES, DIM
from retrieval.training.model.dropout import SharedDropout

if TYPE_CHECKING:
    from torch import Tensor

MASKED = -1e4  # logit of a padded place


@dataclass(frozen=True)
class HeadSettings:
    """ensemble: pairs of heads. hidden: width of the perceptrons. region_dim, token_dim: width of the attention-pooled
    branches. pools: queries of each attention pool. dropout: before every linear layer of a perceptron. cell_dropout:
    of components, in all cells of an image at once. token_dropout: of whole tokens."""

    ensemble: int = 2
    hidden: int = 320
    region_dim: int = 256
    token_dim: int = 256
    pools: int = 8
    dropout: float = 0.4
    cell_dropout: float = 0.2
    token_dropout: float = 0.15


class AttentionPool(nn.Module):
    """Pools a sequence by learned queries, [n, m, d] -> [n, d]: each of `pools` queries averages d / pools values."""

    def __init__(self, width: int, pools: int) -> None:
        super().__init__()
        self.pools = pools
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, pools)
        self.values = nn.Linear(width, width)

    def forward(self, sequence: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: bool [n, m], False for padding."""
        sequence = self.norm(sequence)
        logits = self.logits(sequence)
        if mask is not None:
            logits = logits.masked_fill(~mask.unsqueeze(-1), MASKED)
        values = self.values(sequence).unflatten(-1, (self.pools, -1))
        return (logits.softmax(1).unsqueeze(-1) * values).sum(1).flatten(1)


def perceptron(inputs: int, hidden: int, dropout: float) -> nn.Sequential:
    """float [..., inputs] -> [..., 384]."""
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(inputs, hidden),
        nn.GELU(),
        nn.LayerNorm(hidden),
        nn.Dropout(dropout),
        nn.Linear(hidden, DIM),
    )


class ImageHead(nn.Module):
    """embedding = unit(scale * ConSE + residual), where unit(x) = x / |x|.

    ConSE is the towers' own embedding, so that the head keeps what the classifier knows by name, even if no training
    caption mentions it. The residual reads the class logits, the mean and maximum of the cells, and the cells by
    attention."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.pooled_perceptron = perceptron(CLASSES + 2 * CHANNELS, settings.hidden, settings.dropout)
        self.cell_dropout = SharedDropout(settings.cell_dropout)
        self.cell_projection = nn.Linear(CHANNELS, settings.region_dim)
        self.cell_positions = nn.Parameter(0.02 * torch.randn(CELLS, settings.region_dim))
        self.context = nn.Sequential(nn.Dropout(0.3), nn.Linear(CLASSES, settings.region_dim))
        self.pool = AttentionPool(settings.region_dim, settings.pools)
        self.pool_projection = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(settings.region_dim, DIM))

    def forward(self, cells: Tensor, classes: Tensor, conse: Tensor) -> Tensor:
        """cells: float [n, 49, 1350], classes: float [n, 1000], both standardised by `Inputs`. conse: float [n, 384],
        unit norm. Returns float [n, 384], unit norm."""
        residual = self.pooled_perceptron(torch.cat([classes, 2 * cells.mean(1), 0.5 * cells.amax(1)], dim=-1))
        projected = self.cell_projection(self.cell_dropout(cells)) + self.cell_positions
        regions = gelu(projected + self.context(classes).unsqueeze(1))
        return normalize(self.scale * conse + residual + self.pool_projection(self.pool(regions)), dim=-1)


class TextHead(nn.Module):
    """embedding = unit(MiniLM + residual). The residual reads the tower's embedding, and the tokens by attention."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.embedding_perceptron = perceptron(DIM, settings.hidden, settings.dropout)
        self.token_projection = nn.Linear(DIM, settings.token_dim)
        self.token_dropout = settings.token_dropout
        self.pool = AttentionPool(settings.token_dim, settings.pools)
        self.pool_projection = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(settings.token_dim, DIM))

    def forward(self, embeddings: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """embeddings: float [n, 384], unit norm. tokens: float [n, m, 768], of which the first half, the tower's last
        states, is read. mask: bool [n, m], False for padding. Returns float [n, 384], unit norm."""
        tokens = tokens[..., :DIM]
        if self.training:
            kept = torch.rand(mask.shape) > self.token_dropout
            kept[:, 0] = True
            mask = mask & kept
        residual = self.embedding_perceptron(embeddings * DIM**0.5)  # components of about one, as layers expect
        residual = residual + self.pool_projection(self.pool(gelu(self.token_projection(2 * tokens)), mask))
        return normalize(embeddings + residual, dim=-1)


class Heads(nn.Module):
    """The ensemble: all pairs of heads, and the temperature of each pair's contrastive loss."""

    def __init__(self, class_embeddings: Tensor, settings: HeadSettings) -> None:
        """class_embeddings: float [1000, 384]."""
        super().__init__()
        self.register_buffer("class_embeddings", class_embeddings)
        self.image = nn.ModuleList(ImageHead(settings) for _ in range(settings.ensemble))
        self.text = nn.ModuleList(TextHead(settings) for _ in range(settings.ensemble))
        self.log_scale = nn.Parameter(torch.full((settings.ensemble,), 15.0).log())

    def images(self, cells: Tensor, classes: Tensor, logits: Tensor) -> list[Tensor]:
        """The embedding by each image head, float [n, 384]. logits: class logits as the tower gives them, float
        [n, 1000]. cells, classes: see `ImageHead.forward`."""
        conse = self.conse(logits)
        return [head(cells, classes, conse) for head in self.image]

    def texts(self, embeddings: Tensor, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """The embedding by each text head, float [n, 384]. Arguments: see `TextHead.forward`."""
        return [head(embeddings, tokens, mask) for head in self.text]

    def conse(self, logits: Tensor) -> Tensor:
        """The towers' own embedding of images, float [n, 384]: the class embeddings, weighted by the classifier's
        softmax (ConSE: Norouzi et al. 2013). logits: float [n, 1000]."""
        return normalize(logits.softmax(-1) @ self.class_embeddings, dim=-1)

    def familiarity(self, texts: Tensor) -> Tensor:
        """The similarity of a text to its nearest class embedding: near 1 if it names something that the classifier
        knows. texts: float [n, 384], by the tower, unit norm. Returns float [n]."""
        return (texts @ self.class_embeddings.T).amax(-1)
