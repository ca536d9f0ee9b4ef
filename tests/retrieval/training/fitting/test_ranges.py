"""Ranges of what is rounded to int8, and the scale of stored regions."""

from __future__ import annotations

import numpy as np
import pytest

from tests.retrieval.training.scorers import texts_of

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("without_gradients")]


def test_ranges_hold_nearly_all_that_is_rounded(rounded, monkeypatch):
    """All values at each place, of other texts."""
    from retrieval.training.fitting import ranges
    from retrieval.training.model.rounding import OUTLIERS

    data, model, stored = rounded
    monkeypatch.setattr(ranges, "SAMPLED", 10**9)
    recorder = ranges.RangeRecorder(model.scorer)
    for tokens in texts_of(data, 60):
        recorder(tokens, stored[:20])
    for samples, (low, high) in zip(recorder.samples, model.scorer.ranges.tolist(), strict=True):
        values = np.concatenate(samples)
        assert low < 0 < high and high - low < 1.5 * np.ptp(values)
        assert ((values < low) | (values > high)).mean() < 20 * OUTLIERS


def test_the_same_seed_fits_the_same_ranges(rounded):
    from retrieval.training.fitting.ranges import fit_ranges

    data, model, _ = rounded
    before = model.scorer.ranges.clone(), model.scorer.regions.scale.clone()
    fit_ranges(model.scorer, model.inputs, data, seed=0)
    assert (model.scorer.ranges == before[0]).all() and model.scorer.regions.scale == before[1]


def test_int8_regions_reach_as_far_as_hardly_any_component():
    import torch

    from retrieval.training.fitting.ranges import fit_scale
    from retrieval.training.model.model import FusionNetwork, ModelSettings

    scorer = FusionNetwork(torch.zeros(8, 384), ModelSettings())
    regions = 3 * torch.randn(50, 49, 256, generator=torch.Generator().manual_seed(1))
    fit_scale(scorer, regions)
    stored, restored = scorer.regions.stored(regions), scorer.regions.restored(scorer.regions.stored(regions))
    assert stored.dtype == torch.int8 and stored.amin() == -127 and stored.amax() == 127
    step = float(scorer.regions.scale)
    within = regions.abs() <= 127 * step
    assert (restored - regions).abs()[within].max() <= 0.501 * step and 0 < (~within).float().mean() < 2e-4
    torch.testing.assert_close(restored[~within], 127 * step * regions[~within].sign())
