"""What is stored of an image for the scorer."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch


def test_int8_regions_keep_their_direction():
    import torch

    from retrieval.training.regions import quantize

    images = torch.randn(5, 49, 256, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.normalize(images, dim=-1)
    stored = quantize(images)
    assert stored.dtype == torch.int8 and stored.abs().amax() == 127
    again = torch.nn.functional.normalize(stored.float(), dim=-1)
    assert (again * images).sum(-1).min() > 0.9995


def test_regions_know_their_place_and_are_unit_norm():
    import torch

    from retrieval.training.regions import Regions, RegionSettings

    torch.manual_seed(0)
    module = Regions(RegionSettings(dim=16)).eval()
    same_everywhere = torch.randn(1, 1, 1350).expand(1, 49, 1350)
    found = module(same_everywhere, torch.randn(1, 1000))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(1, 49))
    assert (found[0, 0] - found[0, 1]).abs().max() > 1e-3
