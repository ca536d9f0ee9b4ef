"""Views that are decoded in advance: in order, and bounded by their bytes."""

from __future__ import annotations

import threading
from itertools import islice
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval.captions import CaptionedImage, CaptionSet

pytestmark = pytest.mark.torch
COUNT, SIDE = 60, 100


class Uncropped:
    """Towers that take photos as they are, and count how many bytes of them are in memory. most: so far."""

    image_size = SIDE

    def __init__(self):
        self.held = self.most = self.prepared = 0
        self.changing = threading.Lock()

    def prepare(self, photo):
        with self.changing:
            self.held += photo.pixels.nbytes
            self.prepared += 1
            self.most = max(self.most, self.held)
        return photo.pixels

    def release(self, group):
        with self.changing:
            self.held -= sum(part.nbytes for _, item in group for part in item)


@pytest.fixture
def photos(tmp_path):
    for index in range(COUNT):
        pixels = np.full((SIDE, SIDE + index, 3), index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    images = tuple(CaptionedImage(f"{index}.png", ("a photo",), None) for index in range(COUNT))
    captions = CaptionSet("jsonl", tmp_path / "captions.jsonl", images, tmp_path)
    return [(captions, image) for image in images]


@pytest.mark.parametrize("group_bytes", [1, 10 * SIDE * SIDE * 3, 10**9])
def test_memory_is_bounded_whatever_is_taken_at_once(photos, group_bytes):
    from retrieval.cores import usable_cores
    from retrieval.training.data.views_ahead import views_in_groups

    towers: Any = Uncropped()
    groups = []
    group: Any
    for group in views_in_groups(photos, towers, 1, 40, group_bytes):
        groups.append([index for index, _ in group])
        assert all(item[0][0, 0, 0] == index for index, item in group)
        towers.release(group)
    assert [index for group in groups for index in group] == list(range(COUNT)) and towers.held == 0
    largest = SIDE * (SIDE + COUNT) * 3
    assert towers.most <= 2 * group_bytes + (2 * usable_cores() + 2) * largest
    assert groups[0] == list(range({1: 1, 10**9: 40}.get(group_bytes, len(groups[0])))) and len(groups[0]) <= 40


def test_no_more_is_decoded_than_is_taken_soon(photos):
    from retrieval.cores import usable_cores
    from retrieval.training.data.views_ahead import views_in_groups

    towers: Any = Uncropped()
    first = list(islice(views_in_groups(photos, towers, 1, 2, group_bytes=1), 1))
    assert [index for index, _ in first[0]] == [0]
    assert towers.prepared <= 2 * usable_cores() + 2


def test_no_images_are_no_groups():
    from retrieval.training.data.views_ahead import views_in_groups

    towers: Any = Uncropped()
    assert list(views_in_groups([], towers, 1, 4)) == []
