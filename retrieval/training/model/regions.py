"""The scorer's index-time part: from an image's cells to the regions that are stored, for queries to attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import gelu

from retrieval.training.data.sizes import CELLS, CHANNELS, CLASSES
from retrieval.training.model.dropout import SharedDropout
from retrieval.training.model.rounding import INT8_MAX

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_COMPONENT = 5.0  # hardly any component of a region is larger; until `fit_ranges` has measured it


@dataclass(frozen=True)
class RegionSettings:
    """cells: of an image. channels: components of a cell. global_dim: components of the global features, see `Towers`.
    dim: of a region. dropout: before linear layers. cell_dropout: of components, in all cells of an image at once."""

    cells: int = CELLS
    channels: int = CHANNELS
    global_dim: int = CLASSES
    dim: int = 256
    dropout: float = 0.2
    cell_dropout: float = 0.2


class RegionEncoder(nn.Module):
    """region_j = LN(GELU(W cell_j + position_j + W_g global features) -> LN -> linear)."""

    def __init__(self, settings: RegionSettings) -> None:
        super().__init__()
        self.cell_dropout = SharedDropout(settings.cell_dropout)
        self.cell_projection = nn.Linear(settings.channels, settings.dim)
        self.cell_positions = nn.Parameter(0.02 * torch.randn(settings.cells, settings.dim))
        self.context = nn.Sequential(nn.Dropout(0.3), nn.Linear(settings.global_dim, settings.dim))
        self.out = nn.Sequential(
            nn.LayerNorm(settings.dim), SharedDropout(settings.dropout), nn.Linear(settings.dim, settings.dim)
        )
        self.norm = nn.LayerNorm(settings.dim)
        self.register_buffer("scale", torch.tensor(LARGEST_COMPONENT / INT8_MAX))

    def forward(self, cells: Tensor, global_features: Tensor) -> Tensor:
        """cells: float [n, cells, channels], global_features: float [n, global_dim], both standardised by `Inputs`.
        Returns float [n, cells, dim], components of about one."""
        cells = self.cell_projection(self.cell_dropout(cells))
        context = self.context(global_features).unsqueeze(1)
        regions: Tensor = self.norm(self.out(gelu(cells + self.cell_positions + context)))
        return regions

    def stored(self, regions: Tensor) -> Tensor:
        """The regions as they are stored: int8 q of the same shape, where region ~ scale * q."""
        return (regions / self.scale).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)

    def restored(self, stored: Tensor) -> Tensor:
        """The regions that stored ones stand for: float of the same shape."""
        return stored * self.scale
