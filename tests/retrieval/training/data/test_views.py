"""Views of a photo."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.images import decode

pytestmark = pytest.mark.torch


def test_pixels_and_planes_are_mirrored_alike(tiny_clip):
    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.training.data.towers import OpenClipTransform

    transform = OpenClipTransform(load_openclip(str(tiny_clip), "cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(transform.mirrored(pixels), pixels[:, ::-1])
    planes = pixels.transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(transform.mirrored(planes), transform.mirrored(pixels).transpose(2, 0, 1))


def test_views_are_the_picture_its_mirror_image_and_crops_the_same_every_time(sample_set, lite):
    from retrieval.training.data.towers import LiteTowers
    from retrieval.training.data.views import view

    photo = decode((sample_set.images_dir / "coffee.png").read_bytes())
    towers = LiteTowers(lite)
    views = [view(photo, number, towers, np.random.default_rng([7, number])) for number in range(4)]
    np.testing.assert_array_equal(views[0], lite.prepare(photo))
    np.testing.assert_array_equal(views[1], views[0][:, ::-1])
    assert not np.array_equal(views[2], views[3])
    np.testing.assert_array_equal(views[2], view(photo, 2, towers, np.random.default_rng([7, 2])))
