"""Dropout with one mask for all vectors of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class SharedDropout(nn.Module):
    """Drops the same components in all vectors of a sequence (Gal and Ghahramani 2016, "A Theoretically Grounded
    Application of Dropout in Recurrent Neural Networks").

    What is hidden in one cell or token cannot be read off its neighbours. It also draws far fewer random numbers, which
    on a CPU cost more than the layers around them."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, sequence: Tensor) -> Tensor:
        """float [..., m, d] -> the same. In training, a share of the d components is zero in all m vectors."""
        if not self.training or not self.share:
            return sequence
        kept = torch.rand(*sequence.shape[:-2], 1, sequence.shape[-1], device=sequence.device) >= self.share
        return sequence * (kept / (1 - self.share))
