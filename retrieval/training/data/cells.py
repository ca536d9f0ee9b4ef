"""What each cell of an image's 7x7 grid carries: feature maps of three depths, and colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from retrieval.training.data.sizes import CELL_SIDE, CELLS, GRID

if TYPE_CHECKING:
    from torch import Tensor


class Cells(nn.Module):
    """Turns the outputs of `lite`'s image tower into float32 [n, 49, 1350], row by row from the top left.

    pixels: uint8 [n, 224, 224, 3]. stride8: float [n, 48, 28, 28]. stride16: [n, 120, 14, 14]. stride32:
    [n, 672, 7, 7]. A cell concatenates its column of the last map, the 2x2 columns of the stride 16 map that lie in it,
    the columns of the stride 8 map averaged to 2x2, and the mean and deviation of its pixels' red, green and blue. The
    classifier's last map no longer knows colour."""

    def forward(self, pixels: Tensor, stride8: Tensor, stride16: Tensor, stride32: Tensor) -> Tensor:
        fine = nn.functional.avg_pool2d(stride8, 2)
        colour = (pixels.float() / 127.5 - 1).reshape(-1, GRID, CELL_SIDE, GRID, CELL_SIDE, 3).transpose(2, 3)
        colour = colour.reshape(-1, CELLS, CELL_SIDE * CELL_SIDE, 3)
        mean = colour.mean(2)
        deviation = (colour - mean.unsqueeze(2)).square().mean(2).sqrt()
        return torch.cat([cells_of(stride32, 1), cells_of(stride16, 2), cells_of(fine, 2), mean, deviation], dim=-1)


def cells_of(maps: Tensor, factor: int) -> Tensor:
    """[n, c, 7f, 7f] -> [n, 49, c f f]: every cell with all the columns that lie in it."""
    return nn.functional.pixel_unshuffle(maps, factor).flatten(2).transpose(1, 2)
