"""Damaged files are decoded or unreadable, and nothing else happens. The benchmarks run more of them."""

from __future__ import annotations

import importlib.util
from datetime import datetime

import numpy as np
import pytest

from retrieval.images import UnreadableImage, decode
from tests.mutations import mutations
from tests.retrieval.images.files import files, save
from tests.retrieval.images.pictures import picture
from tests.retrieval.images.test_kinds import PLANES, RGB, psd
from tests.retrieval.images.test_raw import FILES, jpeg

COUNT = 60  # in every batch
BATCHES = 10


def all_files():
    more = {name: make(jpeg()) for name, make in FILES.items()}
    more |= {"jp2": save(picture(), "JPEG2000"), "psd": psd(PLANES, RGB), "psd packed": psd(PLANES, RGB, packed=True)}
    if importlib.util.find_spec("pillow_jxl"):
        importlib.import_module("pillow_jxl")
        more |= {"jxl": save(picture(), "JXL", lossless=True)}
    return files() | more


@pytest.mark.parametrize("seed", range(BATCHES))
def test_damaged_files_are_decoded_or_unreadable_and_nothing_else(seed):
    for name, content in mutations(all_files(), COUNT, seed):
        try:
            photo = decode(content, min_side=4 * (seed % 2), max_pixels=4_000_000, max_seconds=5)
        except UnreadableImage as error:
            reason = str(error)
            assert reason.strip() == reason and len(reason.splitlines()) == 1, name
        else:
            assert photo.pixels.dtype == np.uint8 and photo.pixels.shape[2:] == (3,), name
            assert all(type(side) is int and 0 < side < 2**31 for side in (photo.width, photo.height)), name
            assert photo.taken_at is None or datetime(1826, 1, 1) <= photo.taken_at < datetime(2201, 1, 1), name
            assert photo.note in ("", "incomplete"), name


def test_mutations_come_again_by_their_seed():
    first, same, second = (dict(mutations(files(), 40, seed)) for seed in (1, 1, 2))
    assert first == same
    assert set(first.values()) != set(second.values())
    assert len(first) == 40


def test_mutations_differ_from_their_file():
    changed = sum(content not in files().values() for _, content in mutations(files(), 200))
    assert changed > 180
