"""The cache of arrays: rows written one by one, and which entries are evicted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.torch


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_rows_are_written_so_that_a_full_disk_is_an_error(tmp_path):
    from retrieval.training.data.cache import RowsWriter

    (tmp_path / "rows.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"), RowsWriter(tmp_path / "rows.npy", (3,)) as rows:
        rows.append(np.zeros((1, 3)))


@pytest.mark.parametrize("count", [0, 1, 9, 10, 12345])
def test_rows_are_an_array_of_numpy_whatever_their_number(tmp_path, count):
    from retrieval.training.data.cache import RowsWriter

    expected = np.random.default_rng(0).normal(size=(count, 2, 3)).astype(np.float16)
    with RowsWriter(tmp_path / "rows.npy", (2, 3)) as rows:
        for low in range(0, count, 1000):
            rows.append(expected[low : low + 1000])
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), expected)


def test_a_file_system_that_takes_fewer_bytes_at_once_loses_none(tmp_path, monkeypatch):
    from retrieval.training.data.cache import RowsWriter

    expected = np.arange(300, dtype=np.float16).reshape(100, 3)

    class SlowFile:
        """Takes seven bytes at a time."""

        def __init__(self, file):
            self.file = file

        def write(self, content):
            return self.file.write(content[:7])

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self.file.__enter__()

        def __exit__(self, *error):
            return self.file.__exit__(*error)

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering=-1: SlowFile(real(path, mode, buffering)))
    with RowsWriter(tmp_path / "rows.npy", (3,)) as rows:
        rows.append(expected)
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), expected)


def make_entry(cache: Path, name: str, *, age: float, size: int = 1000, complete: bool = True) -> None:
    """age: seconds since its last use."""
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "cells.npy").write_bytes(bytes(size))
    if complete:
        (folder / "complete").write_text("{}")
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - age,) * 2)


DAY = 24 * 3600


def test_the_least_recently_used_make_room(cache):
    from retrieval.training.data.cache import make_room

    for name, age in (("a", 9), ("b", 5), ("c", 7), ("d", 3)):
        make_entry(cache, name, age=age * DAY)
    assert make_room(cache, [], limit=2500) <= 2500
    assert sorted(path.name for path in cache.iterdir()) == ["b", "d"]


def test_what_is_in_use_stays_whatever_the_limit(cache):
    from retrieval.training.data.cache import make_room

    make_entry(cache, "kept", age=9 * DAY)
    make_entry(cache, "of another run", age=DAY / 2)
    make_entry(cache, "at work", age=DAY / 2, complete=False)
    make_entry(cache, "from the future", age=-DAY / 2)
    assert make_room(cache, ["kept"], limit=0) > 4000
    assert len(list(cache.iterdir())) == 4


def test_what_a_kill_left_behind_is_removed_after_a_day(cache):
    from retrieval.training.data.cache import make_room

    make_entry(cache, "old.abc", age=2 * DAY, complete=False)
    make_entry(cache, "complete", age=9 * DAY)
    make_room(cache, [])
    assert [path.name for path in cache.iterdir()] == ["complete"]


def test_a_cache_that_is_not_there_has_no_bytes(tmp_path):
    from retrieval.training.data.cache import make_room

    assert make_room(tmp_path / "nowhere", []) == 0
