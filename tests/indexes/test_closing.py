"""A collection that is closed, also while others read it: one clear error, and never the bytes of another file."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexes.ann.kinds import AnnFile
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.filters import InFolder
from indexes.paths import ann_folder
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.ann_collections import DIM, text_embeddings
from tests.indexes.contents import ann_entry

CLOSED = "this collection is closed: open it again"
QUERY = np.ones((1, 8), np.float32)
METHODS: dict[str, Callable[[Collection, int], Any]] = {  # each with a collection and the length of its embeddings
    "__len__": lambda collection, dim: len(collection),
    "alive": lambda collection, dim: collection.alive,
    "ann": lambda collection, dim: collection.ann,
    "ann_fault": lambda collection, dim: collection.ann_fault,
    "check": lambda collection, dim: collection.check(collection.binding.model, collection.binding.fingerprint),
    "dead": lambda collection, dim: collection.dead(["id"]),
    "embeddings": lambda collection, dim: collection.embeddings([0]),
    "failures": lambda collection, dim: collection.failures(),
    "nearest": lambda collection, dim: collection.nearest(np.ones((1, dim), np.float32), 3),
    "open_ann": lambda collection, dim: collection.open_ann(),
    "positions": lambda collection, dim: collection.positions(np.array([1])),
    "row": lambda collection, dim: collection.row(0),
    "rows": lambda collection, dim: collection.rows([]),
    "starts": lambda collection, dim: collection.starts,
    "table": lambda collection, dim: collection.table(["id"]),
    "regions": lambda collection, dim: collection.regions([]),
    "uncovered": lambda collection, dim: collection.uncovered,
}
MORE = {  # other ways through the same methods
    "exact": lambda collection, dim: collection.nearest(np.ones((1, dim), np.float32), 3, exact=True),
    "filtered": lambda collection, dim: collection.nearest(np.ones((1, dim), np.float32), 3, [InFolder((b"/",))]),
    "no queries": lambda collection, dim: collection.nearest(np.ones((0, dim), np.float32), 3),
}
WITHOUT_FILES = {"open", "close", "binding"}


def test_all_public_methods_are_tried() -> None:
    public = {name for name in vars(Collection) if not name.startswith("_")} | {"__len__"}
    assert set(METHODS) | WITHOUT_FILES == public


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("name", [*METHODS, *MORE])
def test_after_closing_every_method_says_so(path: Path, name: str, used_before: bool) -> None:
    collection, call = Collection.open(path), (METHODS | MORE)[name]
    if used_before:
        call(collection, DIM)
    collection.close()
    with pytest.raises(CrosslookError) as raised:
        call(collection, DIM)
    assert str(raised.value) == CLOSED and type(raised.value) is CrosslookError
    collection.close()


def test_what_is_known_without_files_stays(collection: Path) -> None:
    opened = Collection.open(collection)
    opened.close()
    assert opened.binding == BINDING and opened.manifest.generation == 3 and opened.folder == collection


@pytest.mark.parametrize("used_before", [False, True])
def test_a_closed_file_of_an_index_says_so(path: Path, used_before: bool) -> None:
    """What another thread meets that has passed the collection's own check already."""
    file = AnnFile(ann_folder(path), ann_entry(path))
    if used_before:
        assert file.index is not None
    file.close()
    for read in (lambda: file.index, lambda: file.fault, file.open):
        with pytest.raises(CrosslookError, match=f"^{CLOSED}$"):
            read()


def test_segments_of_a_closed_collection_say_so(collection: Path) -> None:
    opened = Collection.open(collection)
    segment = opened.segments[0]
    opened.close()
    for read in (
        segment.table,
        segment.failures,
        lambda: segment.column("path"),
        lambda: segment.row_group(0),
        lambda: segment.ids,
        lambda: segment.first_id,
        lambda: segment.embeddings.mapped,
        lambda: list(segment.embeddings.blocks(5)),
    ):
        with pytest.raises(CrosslookError, match=f"^{CLOSED}$"):
            read()


def test_an_array_that_was_read_stays_valid(collection: Path) -> None:
    opened = Collection.open(collection)
    mapped, read = opened.segments[0].embeddings.mapped, opened.embeddings(np.arange(10))
    opened.close()
    np.testing.assert_array_equal(mapped, read)
    np.testing.assert_array_equal(read, Collection.open(collection).embeddings(np.arange(10)))


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_closing_frees_all_files(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    collection = Collection.open(path)
    for call in (METHODS | MORE).values():
        call(collection, DIM)
    rows = collection.rows(np.arange(3_000))
    assert len(os.listdir("/proc/self/fd")) > before + 10
    collection.close()
    assert len(os.listdir("/proc/self/fd")) == before and len(rows) == 3_000


def test_a_read_beside_closing_returns_the_right_bytes_or_says_so(tmp_path: Path) -> None:
    """Other files are opened at once, which take the numbers of the descriptors that are freed."""
    path, others = tmp_path / "c", tmp_path / "others"
    for folder, seed in ((path, 0), (others, 1)):
        with CollectionWriter(folder, BINDING) as writer:
            for _ in range(3):
                writer.commit(make_batch(writer.next_id, 500, seed=seed, failures=1))
    reads: list[Callable[[Collection], Any]] = [
        lambda collection: collection.embeddings(np.arange(0, 1500, 7)).tobytes(),
        lambda collection: collection.regions(np.arange(0, 1500, 7)).tobytes(),
        lambda collection: collection.nearest(QUERY, 5, exact=True)[1].tolist(),
        lambda collection: collection.table(["id", "path"]),
        lambda collection: collection.failures(),
    ]
    reference = Collection.open(path)
    expected = [read(reference) for read in reads]
    outcomes: Counter[str] = Counter()

    def read_until_closed(collection: Collection, index: int, reads_begun: threading.Barrier) -> None:
        reads_begun.wait()
        try:
            while True:
                outcomes["right" if reads[index](collection) == expected[index] else "WRONG"] += 1
        except Exception as error:
            outcomes[f"{type(error).__name__}: {error}"] += 1

    rounds, end = 0, time.monotonic() + 1.5
    while time.monotonic() < end:
        collection, begun = Collection.open(path), threading.Barrier(len(reads) + 1)
        threads = [
            threading.Thread(target=read_until_closed, args=(collection, index, begun)) for index in range(len(reads))
        ]
        for thread in threads:
            thread.start()
        begun.wait()
        time.sleep(0.002 * (rounds % 5))
        collection.close()
        taken = [Collection.open(others) for _ in range(3)]
        for thread in threads:
            thread.join()
        for other in taken:
            other.close()
        rounds += 1
    right = outcomes.pop("right")
    assert outcomes == {f"CrosslookError: {CLOSED}": len(reads) * rounds} and right > rounds > 3


def test_closing_while_the_index_is_read_or_searched(path: Path) -> None:
    queries, outcomes = text_embeddings(20), set()

    def search(collection: Collection) -> None:
        try:
            while True:
                collection.nearest(queries, 10)
                outcomes.add(collection.ann_fault)
        except Exception as error:
            outcomes.add(f"{type(error).__name__}: {error}")

    for pause in (0, 0.0005, 0.001, 0.005, 0.02):
        collection = Collection.open(path)
        threads = [threading.Thread(target=search, args=(collection,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(pause)
        collection.close()
        for thread in threads:
            thread.join()
    assert outcomes <= {None, f"CrosslookError: {CLOSED}"}
