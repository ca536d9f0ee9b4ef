"""Dropout that is the same all along a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class SharedDropout(nn.Module):
    """Drops the same components of all vectors of a sequence (Gal and Ghahramani 2016, "A Theoretically Grounded
    Application of Dropout in Recurrent Neural Networks"): what one cell or word does not show, its neighbours do not
    show either, and far fewer random numbers are drawn, which costs a CPU more than the layers between."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, sequence: Tensor) -> Tensor:
        """[..., m, d] -> the same, in training with a share of the d components zero in all m vectors."""
        if not self.training or not self.share:
            return sequence
        kept = torch.rand(*sequence.shape[:-2], 1, sequence.shape[-1], device=sequence.device) >= self.share
        return sequence * (kept / (1 - self.share))
