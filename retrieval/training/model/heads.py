"""The learned heads of `lite`: residuals on the image and the text embedding.

Several pairs of heads, which begin from different weights and learn side by side, err in different places: their
embeddings are set beside one another and reduced to one of the old length, which keeps nearly all of what an ensemble
gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import gelu, normalize

from retrieval.training.model.cells import CELLS, CHANNELS
from retrieval.training.model.dropout import SharedDropout

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = 1000
DIM = 384
MASKED = -1e4
STATISTICS = ("cell_mean", "cell_deviation", "logit_mean", "logit_deviation")


@dataclass(frozen=True)
class HeadSettings:
    """members: pairs of heads. hidden: width of the perceptrons. regions, words: of the attention-pooled branches.
    dropout: before every linear layer of a perceptron. cell_dropout: of components of the cells, in all cells of an
    image at once. word_dropout: of words."""

    members: int = 2
    hidden: int = 320
    regions: int = 256
    words: int = 256
    pools: int = 8
    dropout: float = 0.4
    cell_dropout: float = 0.2
    word_dropout: float = 0.15


class AttentionPool(nn.Module):
    """Learned queries attend to a sequence: [n, m, d] -> [n, d], each of `pools` queries reading d / pools values."""

    def __init__(self, width: int, pools: int) -> None:
        super().__init__()
        self.pools = pools
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, pools)
        self.values = nn.Linear(width, width)

    def forward(self, sequence: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: bool [n, m], True where there is something to read."""
        sequence = self.norm(sequence)
        logits = self.logits(sequence)
        if mask is not None:
            logits = logits.masked_fill(~mask.unsqueeze(-1), MASKED)
        values = self.values(sequence).unflatten(-1, (self.pools, -1))
        return (logits.softmax(1).unsqueeze(-1) * values).sum(1).flatten(1)


def perceptron(inputs: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(inputs, hidden),
        nn.GELU(),
        nn.LayerNorm(hidden),
        nn.Dropout(dropout),
        nn.Linear(hidden, DIM),
    )


class Inputs(nn.Module):
    """Every input of the image side with mean 0 and deviation 1, as over the training images."""

    def __init__(self, statistics: dict[str, Tensor]) -> None:
        """statistics: see `input_statistics`."""
        super().__init__()
        for name in STATISTICS:
            self.register_buffer(name, statistics[name])

    def forward(self, cells: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """cells: float [n, 49, 1350]. logits: float [n, 1000]. Returns both, of the same shapes."""
        return (cells - self.cell_mean) / self.cell_deviation, (logits - self.logit_mean) / self.logit_deviation


class ImageHead(nn.Module):
    """Embedding = unit(scale * ConSE + residual): what the classifier knows by name stays, whatever the training
    captions spoke of. The residual reads the class logits, the cells' mean and maximum, and the cells by attention."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.pooled = perceptron(CLASSES + 2 * CHANNELS, settings.hidden, settings.dropout)
        self.cell_dropout = SharedDropout(settings.cell_dropout)
        self.cell = nn.Linear(CHANNELS, settings.regions)
        self.place = nn.Parameter(0.02 * torch.randn(CELLS, settings.regions))
        self.context = nn.Sequential(nn.Dropout(0.3), nn.Linear(CLASSES, settings.regions))
        self.pool = AttentionPool(settings.regions, settings.pools)
        self.attended = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(settings.regions, DIM))

    def forward(self, cells: Tensor, classes: Tensor, conse: Tensor) -> Tensor:
        """cells: float [n, 49, 1350], classes: float [n, 1000], both as `Inputs` gives them. conse: float [n, 384],
        unit norm. Returns float [n, 384], unit norm."""
        residual = self.pooled(torch.cat([classes, 2 * cells.mean(1), 0.5 * cells.amax(1)], dim=-1))
        regions = gelu(self.cell(self.cell_dropout(cells)) + self.place + self.context(classes).unsqueeze(1))
        return normalize(self.scale * conse + residual + self.attended(self.pool(regions)), dim=-1)


class TextHead(nn.Module):
    """Embedding = unit(MiniLM + residual); the residual reads the embedding, and the words by attention."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.whole = perceptron(DIM, settings.hidden, settings.dropout)
        self.word = nn.Linear(DIM, settings.words)
        self.word_dropout = settings.word_dropout
        self.pool = AttentionPool(settings.words, settings.pools)
        self.attended = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(settings.words, DIM))

    def forward(self, embeddings: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """embeddings: float [n, 384], unit norm. words: float [n, m, 768], of which the first half is read. mask: bool
        [n, m]. Returns float [n, 384], unit norm."""
        words = words[..., :DIM]
        if self.training:
            kept = torch.rand(mask.shape) > self.word_dropout
            kept[:, 0] = True
            mask = mask & kept
        residual = self.whole(embeddings * DIM**0.5)  # components of about one, which is what layers are made for
        residual = residual + self.attended(self.pool(gelu(self.word(2 * words)), mask))
        return normalize(embeddings + residual, dim=-1)


class Heads(nn.Module):
    """All pairs of heads, and the temperature of each one's contrast."""

    def __init__(self, class_embeddings: Tensor, settings: HeadSettings) -> None:
        """class_embeddings: float [1000, 384]."""
        super().__init__()
        self.register_buffer("class_embeddings", class_embeddings)
        self.image = nn.ModuleList(ImageHead(settings) for _ in range(settings.members))
        self.text = nn.ModuleList(TextHead(settings) for _ in range(settings.members))
        self.log_scale = nn.Parameter(torch.full((settings.members,), 15.0).log())

    def images(self, cells: Tensor, classes: Tensor, logits: Tensor) -> list[Tensor]:
        """The embedding by each member, float [n, 384]. logits: float [n, 1000], of the classifier."""
        conse = self.conse(logits)
        return [head(cells, classes, conse) for head in self.image]

    def conse(self, logits: Tensor) -> Tensor:
        """The towers' own embedding of images, float [n, 384]. logits: float [n, 1000]."""
        return normalize(logits.softmax(-1) @ self.class_embeddings, dim=-1)

    def known(self, texts: Tensor) -> Tensor:
        """How like a text is to the class that it is most like: 1 for the name of something that the classifier can
        tell. texts: float [n, 384], by the tower, unit norm. Returns float [n]."""
        return (texts @ self.class_embeddings.T).amax(-1)

    def texts(self, embeddings: Tensor, words: Tensor, mask: Tensor) -> list[Tensor]:
        """The embedding by each member, float [n, 384]. The rest as in `TextHead.forward`."""
        return [head(embeddings, words, mask) for head in self.text]


def input_statistics(cells: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """Mean and deviation of every input of the image head. cells: [n, 49, 1350]. logits: [n, 1000]."""
    flat = cells.float().flatten(0, 1)
    return {
        "cell_mean": flat.mean(0),
        "cell_deviation": flat.std(0) + 1e-3,
        "logit_mean": logits.float().mean(0),
        "logit_deviation": logits.float().std(0) + 1e-3,
    }
