"""Random views that the device makes of many photos, against those that Pillow makes of one."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.images import Photo

pytestmark = pytest.mark.torch
SIZES = [(640, 480), (480, 640), (224, 224), (100, 80), (300, 1000), (1000, 300), (37, 900), (640, 427), (1, 5)]


def photos_of(sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]


def on_device(photos, side=64):
    import torch

    from retrieval.training.data.device_views import device_views
    from retrieval.training.data.views import random_view

    drawn = [random_view(np.random.default_rng(number)) for number in range(len(photos))]
    pixels = torch.from_numpy(np.concatenate([photo.ravel() for photo in photos]))
    return device_views(pixels, [photo.shape[:2] for photo in photos], drawn, side)


def by_pillow(photos, side=64):
    from retrieval.training.data.photo_batches import SquareTransform
    from retrieval.training.data.views import RANDOM, view

    return np.stack(
        [
            view(Photo(photo, 0, 0, None), RANDOM, SquareTransform(side), np.random.default_rng(number))
            for number, photo in enumerate(photos)
        ]
    )


@pytest.mark.parametrize("side", [64, 224])
def test_they_are_those_of_pillow_but_for_ties(side):
    photos = photos_of(SIZES * 2)
    levels = on_device(photos, side).permute(0, 2, 3, 1).numpy()
    difference = np.abs(levels - by_pillow(photos, side))
    assert difference.max() <= 5 and (difference > 0).mean() < 1e-3
    assert (difference.mean((1, 2, 3)) < 1e-2).all(), "of every photo"
    assert (levels == np.floor(levels)).all() and levels.min() >= 0 and levels.max() <= 255


def test_a_view_does_not_depend_on_the_others(monkeypatch):
    from retrieval.training.data import device_views

    photos = photos_of(SIZES)
    together = on_device(photos)
    monkeypatch.setattr(device_views, "PIXELS_AT_ONCE", 1)  # every photo by itself
    difference = (on_device(photos) - together).abs()
    assert difference.max() <= 5 and (difference > 0).float().mean() < 1e-3


def test_one_colour_stays_one_colour():
    photos = [np.full((50, 70, 3), (level, level, level), np.uint8) for level in (0, 128, 255)]
    levels = on_device(photos).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(levels, by_pillow(photos))
