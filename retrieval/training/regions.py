"""The scorer's index-time part: what of an image's cells is stored for queries to attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import gelu, normalize

from retrieval.training.cells import CELLS, CHANNELS
from retrieval.training.dropout import SharedDropout
from retrieval.training.heads import CLASSES

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 127  # of int8


@dataclass(frozen=True)
class RegionSettings:
    """cells: how many an image has, of `channels` components each; whole: components that tell of the whole image, see
    `Towers`. dim: of a region. dropout: before linear layers. cell_dropout: of components of the cells."""

    cells: int = CELLS
    channels: int = CHANNELS
    whole: int = CLASSES
    dim: int = 256
    dropout: float = 0.2
    cell_dropout: float = 0.2


class Regions(nn.Module):
    """An image's cells, their places and its classes become region tokens."""

    def __init__(self, settings: RegionSettings) -> None:
        super().__init__()
        self.cell_dropout = SharedDropout(settings.cell_dropout)
        self.cell = nn.Linear(settings.channels, settings.dim)
        self.place = nn.Parameter(0.02 * torch.randn(settings.cells, settings.dim))
        self.context = nn.Sequential(nn.Dropout(0.3), nn.Linear(settings.whole, settings.dim))
        self.out = nn.Sequential(
            nn.LayerNorm(settings.dim), SharedDropout(settings.dropout), nn.Linear(settings.dim, settings.dim)
        )

    def forward(self, cells: Tensor, whole: Tensor) -> Tensor:
        """cells: float [n, cells, channels], whole: float [n, whole], both as `Inputs` gives them. Returns float [n,
        cells, dim], every region of unit norm."""
        cells = self.cell(self.cell_dropout(cells))
        return normalize(self.out(gelu(cells + self.place + self.context(whole).unsqueeze(1))), dim=-1)


def quantize(regions: Tensor) -> Tensor:
    """int8, each region on a scale of its own, which need not be kept: only its direction counts."""
    return (regions * (LARGEST / regions.abs().amax(-1, keepdim=True))).round().to(torch.int8)
