"""The fusion scorer as it is trained: what becomes of an image's cells at index time, and how a query reads them.

The read-out is that of SCAN (Lee et al. 2018, "Stacked Cross Attention for Image-Text Matching") in both directions:
every word attends to the regions and is compared with the vector that it attended to, every region to the words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import gelu, normalize

from retrieval.fusion.attention import attention
from retrieval.training.cells import CELLS, CHANNELS
from retrieval.training.heads import CLASSES, DIM, MASKED

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 127  # of int8
SHARPEST = 20.0  # the largest scale of an attention
SMALLEST = 1e-4
NEARLY_NOTHING = 1e-12  # less than one word's exp(-SHARPEST)


@dataclass(frozen=True)
class ScorerSettings:
    """cells: how many an image has, of `channels` components each; whole: components that tell of the whole image, see
    `Towers`. dim: of regions and words in the scorer. dropout: before linear layers. cell_dropout: of whole channels of
    the cells. word_dropout: of words."""

    cells: int = CELLS
    channels: int = CHANNELS
    whole: int = CLASSES
    dim: int = 256
    dropout: float = 0.2
    cell_dropout: float = 0.2
    word_dropout: float = 0.1


class Regions(nn.Module):
    """The index-time part: an image's cells, their places and its classes become region tokens."""

    def __init__(self, settings: ScorerSettings) -> None:
        super().__init__()
        self.cell_dropout = nn.Dropout1d(settings.cell_dropout)
        self.cell = nn.Linear(settings.channels, settings.dim)
        self.place = nn.Parameter(0.02 * torch.randn(settings.cells, settings.dim))
        self.context = nn.Sequential(nn.Dropout(0.3), nn.Linear(settings.whole, settings.dim))
        self.out = nn.Sequential(
            nn.LayerNorm(settings.dim), nn.Dropout(settings.dropout), nn.Linear(settings.dim, settings.dim)
        )

    def forward(self, cells: Tensor, whole: Tensor) -> Tensor:
        """cells: float [n, cells, channels], whole: float [n, whole], both as `Inputs` gives them. Returns float [n,
        cells, dim], every region of unit norm."""
        channels = self.cell_dropout(cells.transpose(1, 2)).transpose(1, 2)
        return normalize(self.out(gelu(self.cell(channels) + self.place + self.context(whole).unsqueeze(1))), dim=-1)


def quantize(regions: Tensor) -> Tensor:
    """int8, each region on a scale of its own, which need not be kept: only its direction counts."""
    return (regions * (LARGEST / regions.abs().amax(-1, keepdim=True))).round().to(torch.int8)


class ReadOut(nn.Module):
    """The query-time part: words attend to regions, regions to words; both are compared with what they attended to."""

    def __init__(self, settings: ScorerSettings) -> None:
        super().__init__()
        dim, self.word_dropout = settings.dim, settings.word_dropout
        self.enter = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(DIM, dim))
        self.feed_forward = nn.Sequential(
            nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Dropout(settings.dropout), nn.Linear(dim, dim)
        )
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(dim, dim))
        self.word_weight = nn.Linear(dim, 1)
        self.region_weight = nn.Linear(dim, 1)
        self.log_word_scale = nn.Parameter(torch.tensor(math.log(8.0)))
        self.log_region_scale = nn.Parameter(torch.tensor(math.log(8.0)))
        self.share = nn.Parameter(torch.tensor(0.5))
        self.log_scale = nn.Parameter(torch.tensor(math.log(12.0)))

    def words(self, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the words ask for, float [n, m, dim], each of unit norm; how much each counts, float [n, m], summing to
        one over a text; and which there are, without the marks, and in training without those dropped.

        words: float [n, m, 768], of which only the second half is read, what each means by itself: the first tells of
        the whole text, as the similarity does already. mask: bool [n, m]."""
        words = words[..., DIM:]
        mask = mask & (words != 0).any(-1)
        if self.training:
            kept = mask & (torch.rand(mask.shape) > self.word_dropout)
            mask = torch.where(kept.any(1, keepdim=True), kept, mask)
        entered = self.enter(words)
        entered = self.norm(entered + self.feed_forward(entered))
        weights = self.word_weight(entered).squeeze(-1).masked_fill(~mask, MASKED).softmax(-1) * mask
        return normalize(self.out(entered), dim=-1), weights, mask

    def region_weights(self, regions: Tensor) -> Tensor:
        """How much each region counts, float [n, 49], summing to one over an image."""
        return (4 * self.region_weight(regions).squeeze(-1)).softmax(-1)

    def all_pairs(self, words: Tensor, mask: Tensor, regions: Tensor) -> Tensor:
        """The logit of every text with every image, float [texts, images]: what `forward` gives for each pair, without
        ever holding the attended vectors, of which the product with their word and their length are enough.

        words: float [texts, m, 768]. mask: bool [texts, m]. regions: float [images, 49, dim], unit norm."""
        asked, weights, mask = self.words(words, mask)
        texts, images = len(mask), len(regions)
        kept = mask.flatten().nonzero().squeeze(1)  # words that are there, of all texts in a row
        text_of_word = torch.zeros(texts, len(kept))
        text_of_word[kept // mask.shape[1], torch.arange(len(kept))] = 1.0
        likeness = (asked.flatten(0, 1)[kept] @ regions.flatten(0, 1).T).unflatten(1, (images, -1))
        looks = (likeness * self.log_word_scale.exp()).softmax(-1)
        products = regions @ regions.transpose(1, 2)
        lengths = (torch.bmm(looks.transpose(0, 1), products).transpose(0, 1) * looks).sum(-1)
        of_words = (looks * likeness).sum(-1) / (lengths + SMALLEST).sqrt()
        by_words = (text_of_word * weights.flatten()[kept]) @ of_words
        looks_back = (likeness * self.log_region_scale.exp()).exp().flatten(1)
        sums = text_of_word @ looks_back
        of_regions = (text_of_word @ (looks_back * likeness.flatten(1))) / sums.clamp(min=NEARLY_NOTHING)
        by_regions = (of_regions.unflatten(1, (images, -1)) * self.region_weights(regions)).sum(-1)
        return self.log_scale.exp() * (self.share * by_words + (1 - self.share) * by_regions)

    def forward(self, words: Tensor, mask: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The logit of each text with the image beside it, float [n], and where its words look, float [n, m, 49].

        words: float [n, m, 768]. mask: bool [n, m]. regions: float [n, 49, dim], unit norm."""
        return self.read(*self.words(words, mask), regions)

    def read(self, asked: Tensor, weights: Tensor, mask: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The same from what `words` gave. Leading axes are broadcast: one text may meet several images."""
        attended, looks = attention(asked, regions, regions, scale=self.log_word_scale.exp())
        return self.compare(asked, weights, mask, regions, attended), looks

    def compare(self, asked: Tensor, weights: Tensor, mask: Tensor, regions: Tensor, attended: Tensor) -> Tensor:
        """The logits from what the words attended to, float [..., m, dim]; the rest as in `read`."""
        of_words = (asked * attended).sum(-1) / (attended.square().sum(-1) + SMALLEST).sqrt()
        by_words = (weights * of_words).sum(-1)
        back = mask.unsqueeze(-2)
        found, _ = attention(regions, asked, asked, back, scale=self.log_region_scale.exp())
        by_regions = ((regions * found).sum(-1) * self.region_weights(regions)).sum(-1)
        return self.log_scale.exp() * (self.share * by_words + (1 - self.share) * by_regions)
