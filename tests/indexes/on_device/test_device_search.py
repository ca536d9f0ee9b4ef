"""The nearest rows of snapshots by a device, against `Collection.nearest` with `exact`."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.manifest import Binding
from indexes.on_device.base import DeviceError
from indexes.on_device.search import DeviceSearch
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.on_device.backends import BACKENDS, backend_of
from tests.indexes.on_device.comparing import Third, assert_same, queries_of
from tests.indexes.on_device.numpy_matrix import NumpyBackend


@pytest.mark.parametrize("name", BACKENDS)
@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 120), min_size=1, max_size=4),
    dim=st.sampled_from([3, 8, 30]),
    k=st.integers(1, 200),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["random", "ties", "nan", "zero"]),
    is_filtered=st.booleans(),
)
def test_it_finds_what_comparing_all_rows_finds(tmp_path_factory, name, sizes, dim, k, seed, kind, is_filtered):
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("c")
    binding = replace(BINDING, dim=dim)
    with CollectionWriter(path / "c", binding) as writer:
        for size in sizes:
            batch = make_batch(writer.next_id, size, seed=seed, binding=binding)
            (block,) = batch.embeddings
            block = np.array(block)
            if kind == "ties":
                block[:] = np.round(2 * block)
            elif kind == "nan" and size:
                block[rng.integers(size, size=3)] = np.nan
            elif kind == "zero":
                block[::2] = 0
            writer.commit(replace(batch, embeddings=[block]))
        if sum(sizes) > 3:
            writer.commit(dead=range(1, sum(sizes), 5))
    collection = Collection.open(path / "c")
    search = DeviceSearch(collection, backend_of(name))
    queries = rng.normal(size=(5, dim)).astype(np.float32)
    assert_same(search, collection, k, [Third()] if is_filtered else [], queries)
    search.close()
    collection.close()
    shutil.rmtree(path)


def test_equal_embeddings_are_compared_by_the_processor(tmp_path, monkeypatch):
    """More of them than the longest shortlist has: nothing can be proved, and the result is right."""
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        for _ in range(2):
            batch = make_batch(writer.next_id, 2500)
            (block,) = batch.embeddings
            writer.commit(replace(batch, embeddings=[np.tile(block[:1], (len(block), 1))]))
    collection = Collection.open(tmp_path / "c")
    search = DeviceSearch(collection, NumpyBackend())
    compared, nearest = [], Collection.nearest

    def counted(self, queries, *rest, **kind):
        compared.append(len(queries))
        return nearest(self, queries, *rest, **kind)

    monkeypatch.setattr(Collection, "nearest", counted)
    positions = search.nearest(queries_of(4), 10)[1]
    assert compared == [4]
    assert_same(search, collection)
    assert positions.shape == (4, 10)


@pytest.fixture
def opened(collection: Path) -> Collection:
    return Collection.open(collection)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_later_snapshot_adds_its_new_segments_alone(collection, name):
    before = Collection.open(collection)
    backend = backend_of(name)
    old = DeviceSearch(before, backend)
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.next_id, 7), dead=[1, 2, 14])
    after = Collection.open(collection)
    new = DeviceSearch(after, backend)
    if isinstance(backend, NumpyBackend):
        assert backend.added == [10, 10, 10, 7]
    for filters in ((), (Third(),)):
        assert_same(old, before, 40, filters)
        assert_same(new, after, 40, filters)
    old.close()
    assert_same(new, after, 40)


def test_rows_of_merged_segments_are_never_returned(collection):
    backend, before = NumpyBackend(), Collection.open(collection)
    old = DeviceSearch(before, backend)
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.next_id, 200))
        writer.commit(dead=[3, 17])
    middle = Collection.open(collection)
    new = DeviceSearch(middle, backend)
    with CollectionWriter(collection, BINDING) as writer:
        assert writer.merge(everything=True)
    merged = Collection.open(collection)
    newest = DeviceSearch(merged, backend)
    assert backend.added == [10, 10, 10, 200, 228], "loaded anew, since half of the rows would be of no segment"
    for search, snapshot in ((old, before), (new, middle), (newest, merged)):
        assert_same(search, snapshot, 300)


@pytest.mark.parametrize("most", [60, 50])
def test_without_room_for_another_matrix_old_rows_stay_and_new_ones_are_added(collection, most):
    backend, before = NumpyBackend(most=most, matrices=1), Collection.open(collection)
    old = DeviceSearch(before, backend)
    with CollectionWriter(collection, BINDING) as writer:
        writer.merge(everything=True)
    merged = Collection.open(collection)
    if most == 60:
        assert_same(DeviceSearch(merged, backend), merged, 50)
        assert backend.added == [10, 10, 10, 30]
    else:
        with pytest.raises(DeviceError, match="no memory is left"):
            DeviceSearch(merged, backend)
    assert_same(old, before)


def test_a_collection_that_is_made_anew_in_the_same_folder_is_loaded_anew(collection):
    backend, before = NumpyBackend(), Collection.open(collection)
    old = DeviceSearch(before, backend)
    shutil.rmtree(collection)
    with CollectionWriter(collection, BINDING) as writer:
        for _ in range(3):
            writer.commit(make_batch(writer.next_id, 10, seed=5))
    after = Collection.open(collection)
    new = DeviceSearch(after, backend)
    assert_same(new, after)
    assert_same(old, before)


def test_two_searches_of_one_collection_load_it_once_and_free_it_with_the_last(collection):
    backend = NumpyBackend()
    first, second = (DeviceSearch(Collection.open(collection), backend) for _ in range(2))
    assert backend.added == [10, 10, 10]
    first.close()
    DeviceSearch(Collection.open(collection), backend).close()
    assert backend.added == [10, 10, 10]
    second.close()
    gc.collect()
    DeviceSearch(Collection.open(collection), backend)
    assert backend.added == [10, 10, 10] * 2


def test_masks_are_made_once(opened, monkeypatch):
    search, made = DeviceSearch(opened, NumpyBackend()), []

    def counted(self, segment):
        made.append(segment)
        return np.asarray(segment.ids % 3 == 0)

    monkeypatch.setattr(Third, "mask", counted)
    for _ in range(3):
        search.nearest(queries_of(2), 3, [Third()])
    assert len(made) == 3


def test_an_empty_collection_pads(tmp_path):
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit(make_batch(1, 0))
    collection = Collection.open(tmp_path / "c")
    assert_same(DeviceSearch(collection, NumpyBackend()), collection, 3)


@pytest.mark.parametrize("count", [1, 30, 31, 5000])
def test_any_count_and_no_query(opened, count):
    search = DeviceSearch(opened, NumpyBackend())
    assert_same(search, opened, count)
    assert search.nearest(np.zeros((0, BINDING.dim), np.float32), count)[1].shape == (0, count)


@pytest.mark.parametrize(("count", "asked"), [(2047, 1), (2048, 0)])
def test_as_many_results_as_the_longest_shortlist_has_prove_nothing_and_are_not_asked_for(tmp_path, count, asked):
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit(make_batch(1, 2500))
    collection, backend = Collection.open(tmp_path / "c"), NumpyBackend()
    search = DeviceSearch(collection, backend)
    assert_same(search, collection, count)
    assert len(backend.calls) == asked


def test_bad_arguments_raise_as_those_of_a_collection(opened):
    search = DeviceSearch(opened, NumpyBackend())
    with pytest.raises(ValueError, match="count must be 1 or more"):
        search.nearest(queries_of(1), 0)
    with pytest.raises(ValueError, match="expected"):
        search.nearest(np.zeros((1, 3), np.float32), 1)


def test_too_small_a_device_says_so(opened):
    with pytest.raises(DeviceError, match="30 rows do not fit"):
        DeviceSearch(opened, NumpyBackend(most=20))


def test_too_many_embeddings_that_are_no_numbers_are_left_to_the_processor(tmp_path):
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        batch = make_batch(1, 5000)
        writer.commit(replace(batch, embeddings=[np.full((5000, BINDING.dim), np.nan, np.float32)]))
    with pytest.raises(DeviceError, match="not finite"):
        DeviceSearch(Collection.open(tmp_path / "c"), NumpyBackend())


def test_after_closing_it_says_so(opened):
    search = DeviceSearch(opened, NumpyBackend())
    search.close()
    with pytest.raises(CrosslookError, match="closed"):
        search.nearest(queries_of(1), 3)


def test_bindings_of_any_length_of_embedding(tmp_path):
    binding = Binding("fake", "f" * 16, 388, (1, 1), "int8")
    with CollectionWriter(tmp_path / "c", binding) as writer:
        writer.commit(make_batch(1, 400, binding=binding))
    collection = Collection.open(tmp_path / "c")
    queries = collection.embeddings(np.arange(5)).astype(np.float32)
    backend = NumpyBackend()
    assert_same(DeviceSearch(collection, backend), collection, 50, queries=queries)
    assert backend.calls == [(5, 78)], "all of them were certain at once"
