"""Views of a photo."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.images import decode

pytestmark = pytest.mark.torch


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
