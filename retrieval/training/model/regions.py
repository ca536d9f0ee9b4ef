"""The scorer's index-time part: what of an image's cells is stored for queries to attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import gelu

from retrieval.training.model.cells import CELLS, CHANNELS
from retrieval.training.model.dropout import SharedDropout
from retrieval.training.model.heads import CLASSES
from retrieval.training.model.rounding import LARGEST, OUTSIDE

if TYPE_CHECKING:
    from torch import Tensor

USUAL = 5.0  # hardly a component is larger


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
        self.norm = nn.LayerNorm(settings.dim)
        self.register_buffer("scale", torch.tensor(USUAL / LARGEST))

    def forward(self, cells: Tensor, whole: Tensor) -> Tensor:
        """cells: float [n, cells, channels], whole: float [n, whole], both as `Inputs` gives them. Returns float [n,
        cells, dim], components of about one."""
        cells = self.cell(self.cell_dropout(cells))
        regions: Tensor = self.norm(self.out(gelu(cells + self.place + self.context(whole).unsqueeze(1))))
        return regions

    def stored(self, regions: Tensor) -> Tensor:
        """int8 of the same shape, as regions are stored: whole numbers of `scale`."""
        return (regions / self.scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)

    def restored(self, stored: Tensor) -> Tensor:
        """float of the same shape, what was stored."""
        return stored * self.scale

    def fit_scale(self, regions: Tensor) -> None:
        """Let int8 reach as far as these regions."""
        self.scale.fill_(float(np.quantile(regions.abs().numpy(), 1 - OUTSIDE)) / LARGEST)
