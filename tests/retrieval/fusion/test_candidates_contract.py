"""The contract of candidates: those of a collection keep it, and so do those that tests of scorers make up."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from indexes.collection import Collection
from retrieval.fusion import Candidates
from retrieval.fusion.candidates import CollectionCandidates
from retrieval.images import Photo, decode
from retrieval.indexing.pipeline import index_folders
from tests.retrieval.made_up_scorers import MadeUpCandidates
from tests.support import FakeEncoder, write_photos

COUNT, GONE = 4, 2
SIMILARITIES = np.array([0.4, 0.3, 0.2, 0.1], np.float32)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Six images, of which the file of one candidate is gone."""
    folder = tmp_path_factory.mktemp("candidates")
    write_photos(folder / "photos", 6)
    index_folders([folder / "photos"], folder / "c", FakeEncoder())
    collection = Collection.open(folder / "c")
    os.unlink(collection.rows(np.array([5 - GONE]))[0].path)
    return collection


@pytest.fixture(params=["of a collection", "made up"])
def candidates(request, collection) -> Candidates:
    """The last images first."""
    positions = np.array([5, 4, 3, 2])
    if request.param == "of a collection":
        return CollectionCandidates(collection, positions, SIMILARITIES)
    photos = [None if index == GONE else photo_at(collection, position) for index, position in enumerate(positions)]
    return MadeUpCandidates(SIMILARITIES, collection.regions(positions), photos)


def photo_at(collection, position):
    row = collection.rows(np.array([position]))[0]
    with open(row.path, "rb") as file:
        return decode(file.read(), 4)


def test_everything_is_of_the_same_images(candidates):
    regions = candidates.regions()
    assert len(candidates) == len(candidates.similarities) == len(regions) == len(candidates.rows()) == COUNT
    assert candidates.similarities.dtype == np.float32 and candidates.similarities.shape == (COUNT,)
    np.testing.assert_array_equal(candidates.similarities, SIMILARITIES)


def test_regions_have_the_shape_and_dtype_that_are_stored(candidates, collection):
    regions = candidates.regions()
    binding = collection.binding
    assert regions.shape == (COUNT, *binding.region_shape) and regions.dtype == binding.region_dtype
    np.testing.assert_array_equal(regions, collection.regions(np.array([5, 4, 3, 2])))


def test_rows_have_the_sizes_of_the_images(candidates):
    rows = candidates.rows()
    assert [type(row.path) for row in rows] == [bytes] * COUNT
    assert all(row.width > 0 and row.height > 0 for row in rows) and len({row.id for row in rows}) == COUNT


def test_photos_come_one_by_one_in_order_and_none_for_a_file_that_is_gone(candidates, collection):
    photos = candidates.photos(4)
    assert isinstance(photos, Iterator)
    listed = list(photos)
    assert [photo is None for photo in listed] == [index == GONE for index in range(COUNT)]
    assert isinstance(listed[0], Photo)
    np.testing.assert_array_equal(listed[0].pixels, photo_at(collection, 5).pixels)


def test_everything_may_be_read_twice(candidates):
    np.testing.assert_array_equal(candidates.regions(), candidates.regions())
    assert candidates.rows() == candidates.rows()
    assert [photo is None for photo in candidates.photos(4)] == [photo is None for photo in candidates.photos(4)]
