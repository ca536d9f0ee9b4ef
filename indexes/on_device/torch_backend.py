"""What torch does on a GPU for a search, and for making an ANN index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexes.on_device.base import Chooser
from indexes.on_device.torch_lists import torch_centroids, torch_chooser
from indexes.on_device.torch_matrix import CUDA, TorchMatrix


@dataclass(frozen=True)
class TorchBackend:
    """A device by torch's name for it, such as `cuda:0`. See `Backend`."""

    device: str = CUDA

    @property
    def name(self) -> str:
        """See `Backend`."""
        return f"torch on {self.device}"

    def matrix(self, dim: int, rows: int) -> TorchMatrix:
        """See `Backend`."""
        return TorchMatrix(self.device, dim, rows)

    def centroids(self, sample: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """See `Backend`."""
        return torch_centroids(self.device, sample, count)

    def chooser(self, centroids: NDArray[np.float32]) -> Chooser:
        """See `Backend`."""
        return torch_chooser(self.device, centroids)
