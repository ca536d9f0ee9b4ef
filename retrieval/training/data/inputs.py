"""Standardisation of the image side's inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS = ("cell_mean", "cell_deviation", "logit_mean", "logit_deviation")


class Inputs(nn.Module):
    """Shifts and scales every input component to mean 0 and deviation 1 over the training images.

    The names say `logit` for the global features, which are class logits for `lite`."""

    def __init__(self, statistics: dict[str, Tensor]) -> None:
        """statistics: see `input_statistics`."""
        super().__init__()
        for name in STATISTICS:
            self.register_buffer(name, statistics[name])

    def forward(self, cells: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
        """cells: float [n, cells, channels]. global_features: float [n, global_dim]. Returns both, standardised."""
        cells = (cells - self.cell_mean) / self.cell_deviation
        return cells, (global_features - self.logit_mean) / self.logit_deviation


def input_statistics(cells: Tensor, global_features: Tensor) -> dict[str, Tensor]:
    """Mean and deviation of every input component, float [channels] or [global_dim], by the names of `STATISTICS`.

    cells: [n, cells, channels]. global_features: [n, global_dim]."""
    flat = cells.float().flatten(0, 1)
    return {
        "cell_mean": flat.mean(0),
        "cell_deviation": flat.std(0) + 1e-3,
        "logit_mean": global_features.float().mean(0),
        "logit_deviation": global_features.float().std(0) + 1e-3,
    }
