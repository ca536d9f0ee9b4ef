"""How long and how fast a stage of training learns."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """One stage of training.

    batch: images of a step, over all processes; each process looks for the contrast's negatives within its own part.
    captions: of each image in a step. learning_rate: the peak, of AdamW. decay: weight decay of matrices. warm_up:
    share of all steps in which the rate rises. average: decay of the exponential moving average of the weights, which
    is what is judged and kept. patience: epochs without a better dev figure before the stage stops."""

    epochs: int
    batch: int
    captions: int
    learning_rate: float = 1e-3
    decay: float = 0.05
    warm_up: float = 0.05
    average: float = 0.98
    patience: int = 8

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step of `steps`: a linear warm-up, then half a cosine down to a thousandth."""
        warm_up = max(1.0, self.warm_up * steps)
        share = min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-3)
        return share * self.learning_rate

    def average_decay(self, step: int) -> float:
        """The decay of the moving average at a step: smaller in the beginning, so that it soon leaves the first weights
        behind."""
        return min(self.average, (step + 1) / (step + 11))
