"""Filters against a brute force over all paths, and their cached masks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.filters import Filter, InFolder, MaskCache
from indexes.folders import are_in_folder, is_in_folder
from indexes.rows import Row, failures_table, rows_table
from indexes.segment import Segment
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch

NAMES = st.text("ab. ", min_size=1, max_size=3)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


def lies_in(path: str, folder: str) -> bool:
    """The twin: the folder is the path, or one of those that it passes through."""
    names, outer = path.strip("/").split("/"), [name for name in folder.split("/") if name]
    return names[: len(outer)] == outer


def collection_of(folder: Path, paths: Sequence[str]) -> Collection:
    """Two segments with these paths."""
    with CollectionWriter(folder, BINDING) as writer:
        for half in (paths[::2], paths[1::2]):
            first = writer.manifest.next_id
            rows = [Row(first + at, path.encode(), 1, 1, bytes(16), 4, 3, None) for at, path in enumerate(half)]
            embeddings = np.random.default_rng(first).normal(size=(len(rows), 8)).astype(np.float16)
            regions = np.zeros((len(rows), 2, 3), np.float16)
            writer.commit(Batch(rows_table(rows), failures_table([]), [embeddings], [regions]))
    return Collection.open(folder)


@settings(deadline=None, max_examples=200)
@given(path=PATHS, folders=st.lists(st.one_of(PATHS, PATHS.map(lambda path: path + "/"), st.just("/")), max_size=3))
def test_a_path_is_in_a_folder_by_whole_names(path: str, folders: list[str]) -> None:
    import pyarrow as pa

    encoded = [folder.encode() for folder in folders]
    expected = any(lies_in(path, folder) for folder in folders if folder == "/" or not folder.endswith("/"))
    ends = [folder for folder in folders if folder.endswith("/") and folder != "/"]
    expected |= any(lies_in(path, folder) and path != folder.rstrip("/") for folder in ends)
    assert is_in_folder(path.encode(), encoded) == expected
    column = pa.chunked_array([pa.array([path.encode()], pa.binary())])
    assert any(are_in_folder(column, folder)[0] for folder in encoded) == expected


@pytest.mark.parametrize("folders", [("/a",), ("/a/b",), ("/a/b", "/c"), ("/a/b/1.jpg",), ("/",), ("/nowhere",), ()])
def test_only_images_in_the_folders_are_returned(tmp_path: Path, folders: tuple[str, ...]) -> None:
    parents = ("/a/b", "/a/bc", "/a", "/c", "/c/a/b")
    collection = collection_of(tmp_path / "c", [f"{parent}/{number}.jpg" for number in range(4) for parent in parents])
    query = np.ones((1, 8), np.float32)
    similarities, positions = collection.nearest(query, 20)
    paths = [row.path.decode() for row in collection.rows(positions[0])]
    passing = [any(lies_in(path, folder) for folder in folders) for path in paths]
    filtered = collection.nearest(query, 20, [InFolder(tuple(folder.encode() for folder in folders))])
    count = sum(passing)
    np.testing.assert_array_equal(filtered[1][0], np.r_[positions[0][passing], np.full(20 - count, -1)])
    np.testing.assert_array_equal(filtered[0][0], np.r_[similarities[0][passing], np.full(20 - count, -np.inf)])


def test_an_image_is_returned_if_it_passes_all_filters(tmp_path: Path) -> None:
    collection = collection_of(tmp_path / "c", ["/a/1.jpg", "/a/b/2.jpg", "/b/3.jpg"])
    filters = [InFolder((b"/a", b"/b")), InFolder((b"/a/b", b"/b")), InFolder((b"/",))]
    positions = collection.nearest(np.ones((1, 8), np.float32), 3, filters)[1][0]
    assert {row.path for row in collection.rows(positions[positions >= 0])} == {b"/a/b/2.jpg", b"/b/3.jpg"}


def test_dead_rows_do_not_pass(collection: Path) -> None:
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[3, 4])
    positions = Collection.open(collection).nearest(np.ones((1, 8), np.float32), 40, [InFolder((b"/photos",))])[1]
    assert (positions >= 0).sum() == 28


@dataclass(frozen=True)
class EvenIds:
    """Passes rows of even ids, and counts how often it is asked. The count is no part of its value."""

    calls: list[int] = field(default_factory=list, compare=False)

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        self.calls.append(segment.entry.number)
        return np.asarray(segment.ids % 2 == 0)


def test_a_mask_is_computed_once_for_each_segment(collection: Path) -> None:
    opened, first, equal = Collection.open(collection), EvenIds(), EvenIds()
    for condition in (first, first, equal):
        positions = opened.nearest(np.ones((1, 8), np.float32), 15, [condition])[1][0]
        assert all(row.id % 2 == 0 for row in opened.rows(positions[positions >= 0]))
    assert first.calls == [1, 2, 3] and equal.calls == []


def test_many_threads_get_the_same_masks(collection: Path) -> None:
    opened, query = Collection.open(collection), np.ones((1, 8), np.float32)
    expected = opened.nearest(query, 20, [EvenIds()])[1]
    fresh = Collection.open(collection)
    with ThreadPoolExecutor(8) as threads:
        for positions in threads.map(lambda _: fresh.nearest(query, 20, [EvenIds()])[1], range(64)):
            np.testing.assert_array_equal(positions, expected)


def test_the_cache_keeps_what_was_used_last_within_its_capacity(tmp_path: Path) -> None:
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        for _ in range(4):
            writer.commit(make_batch(writer.manifest.next_id, 10))
    segments, condition = Collection.open(tmp_path / "c").segments, EvenIds()
    cache = MaskCache(capacity=25)  # two masks of ten rows
    for index in (0, 1, 0, 2, 0, 1):
        cache.mask(segments[index], [condition])
    assert condition.calls == [1, 2, 3, 2]


def test_a_mask_is_not_kept_where_it_is_larger_than_the_cache(collection: Path) -> None:
    segments, condition = Collection.open(collection).segments, EvenIds()
    cache = MaskCache(capacity=9)
    assert cache.mask(segments[0], [condition]).sum() == cache.mask(segments[0], [condition]).sum() == 5
    assert condition.calls == [1, 1]


def test_a_cached_mask_cannot_be_changed(collection: Path) -> None:
    segment = Collection.open(collection).segments[0]
    even: list[Filter] = [EvenIds()]
    for filters in (even, [*even, InFolder((b"/photos",))]):
        with pytest.raises(ValueError, match="read-only"):
            MaskCache().mask(segment, filters)[0] = False


@dataclass(frozen=True)
class OwnArray:
    """Passes by an array that it keeps, `masks[0]` or a view of it."""

    masks: list[NDArray[np.bool_]] = field(hash=False, compare=False)
    is_view: bool

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        return self.masks[0][:] if self.is_view else self.masks[0]


@pytest.mark.parametrize("capacity", [9, 1_000])
@pytest.mark.parametrize("is_view", [False, True])
def test_an_array_of_the_filter_s_own_is_neither_frozen_nor_shared(
    collection: Path, is_view: bool, capacity: int
) -> None:
    segment, kept = Collection.open(collection).segments[0], np.ones(10, np.bool_)
    mask = MaskCache(capacity).mask(segment, [OwnArray([kept], is_view)])
    kept[:] = False
    assert mask.all() and not mask.flags.writeable


def test_masks_are_kept_by_segment_also_where_segments_are_as_long(collection: Path) -> None:
    """The fixture's segments have ten rows each, with even ids in other places."""
    segments, cache = Collection.open(collection).segments, MaskCache()
    for segment in (*segments, *segments):
        np.testing.assert_array_equal(cache.mask(segment, [EvenIds()]), segment.ids % 2 == 0)
        np.testing.assert_array_equal(cache.mask(segment, [FirstIds(15)]), segment.ids <= 15)


@dataclass(frozen=True)
class FirstIds:
    last: int

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        return np.asarray(segment.ids <= self.last)
