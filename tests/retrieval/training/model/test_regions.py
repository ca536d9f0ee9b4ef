"""What is stored of an image for the scorer."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch


def test_regions_are_kept_in_int8_as_far_as_hardly_any_component_reaches():
    import torch

    from retrieval.training.model.regions import Regions, RegionSettings

    module = Regions(RegionSettings(dim=256))
    images = 3 * torch.randn(50, 49, 256, generator=torch.Generator().manual_seed(1))
    module.fit_scale(images)
    stored = module.stored(images)
    assert stored.dtype == torch.int8 and stored.amin() == -127 and stored.amax() == 127
    off = (module.restored(stored) - images).abs()
    step = float(module.scale)
    reached = images.abs() <= 127 * step
    assert off[reached].max() <= 0.501 * step and 0 < (~reached).float().mean() < 2e-4
    torch.testing.assert_close(module.restored(stored)[~reached], 127 * step * images[~reached].sign())


def test_regions_know_their_place_and_are_of_one_size():
    import torch

    from retrieval.training.model.regions import Regions, RegionSettings

    torch.manual_seed(0)
    module = Regions(RegionSettings(dim=16)).eval()
    same_everywhere = torch.randn(1, 1, 1350).expand(1, 49, 1350)
    found = module(same_everywhere, torch.randn(1, 1000))
    torch.testing.assert_close(found.square().mean(dim=-1), torch.ones(1, 49), atol=1e-3, rtol=0)
    assert (found[0, 0] - found[0, 1]).abs().max() > 1e-3
