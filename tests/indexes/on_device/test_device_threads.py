"""A device's search from several threads: while rows are added, and while it is closed."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from indexes.collection import Collection
from indexes.filters import InFolder
from indexes.on_device.search import DeviceSearch
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.on_device.backends import BACKENDS, backend_of
from tests.indexes.on_device.comparing import Third, assert_same, queries_of
from tests.indexes.on_device.numpy_matrix import NumpyBackend, NumpyMatrix


@pytest.mark.parametrize("name", BACKENDS)
def test_many_threads_get_what_one_gets_while_rows_are_added(collection, name):
    backend = backend_of(name)
    first = Collection.open(collection)
    searches = [(DeviceSearch(first, backend), first)]
    stop = threading.Event()

    def search(number: int) -> int:
        rounds = 0
        while not stop.is_set() or not rounds:
            chosen, snapshot = searches[number % len(searches)]
            assert_same(chosen, snapshot, 15, [Third()] if rounds % 2 else [], queries_of(3, seed=rounds))
            rounds += 1
        return rounds

    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(search, number) for number in range(4)]
        try:
            for _ in range(4):
                with CollectionWriter(collection, BINDING) as writer:
                    writer.commit(make_batch(writer.next_id, 20))
                snapshot = Collection.open(collection)
                searches.append((DeviceSearch(snapshot, backend), snapshot))
        finally:
            stop.set()
        assert all(future.result() for future in futures)


def test_a_collection_that_is_loading_keeps_no_other_waiting(collection, tmp_path, monkeypatch):
    with CollectionWriter(tmp_path / "other", BINDING) as writer:
        writer.commit(make_batch(1, 20))
    backend, begun, goes_on, add = NumpyBackend(), threading.Event(), threading.Event(), NumpyMatrix.add

    def slow(matrix, block):
        if len(block) == 10:  # of the first collection
            begun.set()
            assert goes_on.wait(30)
        return add(matrix, block)

    monkeypatch.setattr(NumpyMatrix, "add", slow)
    first, other = Collection.open(collection), Collection.open(tmp_path / "other")
    with ThreadPoolExecutor(3) as pool:
        loading = [pool.submit(DeviceSearch, first, backend) for _ in range(2)]
        try:
            assert begun.wait(30)
            assert_same(pool.submit(DeviceSearch, other, backend).result(timeout=30), other)
        finally:
            goes_on.set()
        for search in loading:
            assert_same(search.result(), first)
    assert sorted(backend.added) == [10, 10, 10, 20], "each is loaded once"


@pytest.mark.parametrize("closes", ["search", "collection"])
def test_closing_while_others_search_is_one_clear_error(collection, closes):
    outcomes: Counter[str] = Counter()

    def ask(search: DeviceSearch, expected: list[list[int]]) -> None:
        try:
            while True:
                outcomes["right" if search.nearest(queries_of(3), 5)[1].tolist() == expected else "WRONG"] += 1
                search.nearest(queries_of(1), 5, [InFolder((b"%d" % outcomes["right"],))])
        except Exception as error:
            outcomes[f"{type(error).__name__}: {error}"] += 1

    for _ in range(10):
        opened = Collection.open(collection)
        search = DeviceSearch(opened, NumpyBackend())
        expected = opened.nearest(queries_of(3), 5, exact=True)[1].tolist()
        threads = [threading.Thread(target=ask, args=(search, expected)) for _ in range(3)]
        for thread in threads:
            thread.start()
        search.nearest(queries_of(3), 5)
        (search if closes == "search" else opened).close()
        search.close()
        for thread in threads:
            thread.join()
    outcomes.pop("right", None)
    assert outcomes == {"CrosslookError: this collection is closed: open it again": 30}
