"""Batches of photos are bounded in number, bytes and time, by threads and by workers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from retrieval.indexing import photo_batches as module
from retrieval.indexing.files import File
from retrieval.indexing.held_pixels import HeldPixels
from retrieval.indexing.photo_batches import photo_batches
from retrieval.indexing.plan import Encoding
from retrieval.indexing.reading import Reading


def encodings(sizes: list[int]) -> list[Encoding]:
    return [Encoding(File(b"%d" % number, size, 0, 0)) for number, size in enumerate(sizes)]


def read(encoding: Encoding) -> Reading:
    return Reading(encoding, prepared=np.zeros(encoding.file.size, np.uint8) if encoding.file.size else None)


class Watched(HeldPixels):
    """Notes the most bytes that are held at once."""

    most = 0

    def admit(self, turn: int, size: int, waits: bool = True) -> None:
        super().admit(turn, size, waits)
        self.most = max(self.most, self.taken)


@pytest.mark.parametrize("threads", [0, 1, 3, 16])
@pytest.mark.parametrize(
    "sizes", [[40] * 50, [30, 90, 10, 0] * 15, [500] * 7, [1] * 99, [0] * 30, [1, 1, 700, 1, 90, 300] * 6], ids=str
)
def test_no_more_is_held_than_there_is_and_one_photo(sizes, threads):
    held = Watched(100)
    files = encodings(sizes)
    readings = []
    with ThreadPoolExecutor(1) as encoder:  # two batches are with it at most
        encoding: list[Any] = []
        for batch in photo_batches(files, read, 8, threads, held=held):
            assert 0 < len(batch.readings) <= 8
            readings += batch.readings
            encoding.append(encoder.submit(batch.release))
            if len(encoding) > 2:
                encoding.pop(0).result()
    assert [reading.encoding for reading in readings] == files
    assert held.taken == 0
    if threads:
        assert held.most <= 100 + max(sizes)


def test_a_photo_that_is_due_never_waits_for_later_ones():
    """The second photo comes last, when all room is taken by those behind it."""
    held = HeldPixels(100)
    others = threading.Semaphore(0)

    def read_late(encoding: Encoding) -> Reading:
        if encoding.file.path == b"1":
            for _ in range(4):
                others.acquire()
        reading = read(encoding)
        others.release()
        return reading

    batches = photo_batches(encodings([25] * 12), read_late, 4, 8, held=held)
    counts = []
    for batch in batches:
        counts.append(len(batch.readings))
        batch.release()
    assert sum(counts) == 12 and held.taken == 0


def test_what_is_read_slowly_is_passed_on_soon(monkeypatch):
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.0)
    last = threading.Event()

    def read_slowly(encoding: Encoding) -> Reading:
        if encoding.file.path == b"9":
            assert last.wait(60)
        return read(encoding)

    seen = 0
    for batch in photo_batches(encodings([1] * 10), read_slowly, 512, 2):
        seen += len(batch.readings)
        batch.release()
        if seen == 9:  # long before a batch is full
            last.set()
    assert seen == 10


def test_a_stop_is_noticed_while_a_file_is_read():
    goes_on, begun = threading.Event(), threading.Event()

    def read_slowly(encoding: Encoding) -> Reading:
        if encoding.file.path == b"3":
            begun.set()
            assert goes_on.wait(60)
        return read(encoding)

    def stops() -> bool:
        if begun.is_set():
            goes_on.set()  # the file that is being read is waited for
        return begun.is_set()

    batches = list(photo_batches(encodings([1] * 100), read_slowly, 50, 1, stops))
    assert [len(batch.readings) for batch in batches] == [3]


def test_where_no_thread_can_be_started_the_caller_reads(monkeypatch):
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    batches = photo_batches(encodings([60] * 9), read, 4, 8, held=HeldPixels(100))
    assert sum(len(batch.readings) for batch in batches) == 9


def test_an_error_of_the_caller_leaves_no_thread():
    before = threading.active_count()
    batches = photo_batches(encodings([60] * 50), read, 4, 8, held=HeldPixels(100))
    next(batches)
    del batches
    assert threading.active_count() == before
