"""Fit what int8 needs to know: the scale of the stored regions, and the range of every activation that is rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from retrieval.training.inference import regions_of
from retrieval.training.model.integer_reader import IntegerReader
from retrieval.training.model.rounding import INT8_MAX, OUTLIERS, place_of

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.data.features import Features
    from retrieval.training.data.inputs import Inputs
    from retrieval.training.model.model import FusionNetwork

TEXTS = 500
SAMPLED = 500  # values of each place and text


@torch.no_grad()  # type: ignore[untyped-decorator]
def fit_ranges(scorer: FusionNetwork, inputs: Inputs, features: Features, seed: int) -> None:
    """Fit scale and ranges in place, on captions with their image and with another, as queries meet images.

    scorer: in evaluation mode, after `fit_estimate`."""
    rng = np.random.default_rng([seed, *b"ranges"])
    texts = rng.permutation(features.text_count)[:TEXTS]
    others = rng.integers(features.image_count, size=len(texts))
    pairs = np.stack([features.image_of_text[texts], others], axis=1)
    images, rows = np.unique(pairs, return_inverse=True)
    regions = regions_of(inputs, scorer, features, images)
    fit_scale(scorer, regions)
    stored, recorder = scorer.regions.stored(regions), RangeRecorder(scorer)
    for text, both in zip(texts, rows.reshape(pairs.shape), strict=True):
        recorder(features.tokens_of(text[None])[0][0], stored[both])
    scorer.ranges.copy_(torch.stack([_range(torch.cat(values)) for values in recorder.samples]))


def fit_scale(scorer: FusionNetwork, regions: Tensor) -> None:
    """Scale stored regions so that int8 spans all but a share OUTLIERS of these components.

    regions: float [..., dim]."""
    scorer.regions.scale.fill_(float(np.quantile(regions.abs().numpy(), 1 - OUTLIERS)) / INT8_MAX)


class RangeRecorder(IntegerReader):
    """Records a sample of the activations at every place, which it does not round; weights and regions are rounded."""

    def __init__(self, scorer: FusionNetwork) -> None:
        super().__init__(scorer)
        self.samples: list[list[Tensor]] = [[] for _ in self.ranges]

    def product(
        self, layer: int, place: str, x: Tensor, integers: Tensor, scales: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        values = x.flatten()
        step = max(1, len(values) // SAMPLED) | 1  # odd, so that it visits every component
        self.samples[place_of(layer, place)].append(values[::step])
        product = x @ (integers * scales)
        return product if bias is None else product + bias

    def region_means(self, weights: Tensor, regions: Tensor) -> Tensor:
        return weights @ self.regions.restored(regions)


def _range(values: Tensor) -> Tensor:
    """The ends of a range that spans all but the OUTLIERS on either side, float [2], below and above zero."""
    low, high = np.quantile(values.numpy(), [OUTLIERS, 1 - OUTLIERS])
    return torch.tensor([min(low, -1e-3), max(high, 1e-3)])
