"""The regions of an image, before they are stored."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch


def test_regions_know_their_place_and_are_of_one_size():
    import torch

    from retrieval.training.model.regions import RegionEncoder, RegionSettings

    torch.manual_seed(0)
    module = RegionEncoder(RegionSettings(dim=16)).eval()
    same_everywhere = torch.randn(1, 1, 1350).expand(1, 49, 1350)
    regions = module(same_everywhere, torch.randn(1, 1000))
    torch.testing.assert_close(regions.square().mean(dim=-1), torch.ones(1, 49), atol=1e-3, rtol=0)
    assert (regions[0, 0] - regions[0, 1]).abs().max() > 1e-3
