"""Rows of a file are what NumPy reads from it, and no more of it is read than is asked for."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from indexes import row_file
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.row_file import RowFile, read_rows

SHAPES = [((50, 8), "float16"), ((50, 2, 3), "int8"), ((50, 4, 5), "float32"), ((0, 8), "float16")]
READERS = {
    "pread": row_file.read_at,
    "seek": row_file.read_by_seeking,
    "a few bytes at once": lambda descriptor, size, start: os.pread(descriptor, min(size, 5), start),
}


def take(file, offsets):
    """Rows of one file."""
    return read_rows([file], np.zeros(len(offsets), np.int64), np.asarray(offsets))


def saved(tmp_path, shape, dtype):
    values = np.random.default_rng(0).integers(-100, 100, size=shape).astype(dtype)
    np.save(tmp_path / "rows.npy", values)
    return tmp_path / "rows.npy", values


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("shape, dtype", SHAPES)
def test_rows_are_those_that_numpy_reads(tmp_path, monkeypatch, shape, dtype, read):
    monkeypatch.setattr(row_file, "read_at", read)
    path, _ = saved(tmp_path, shape, dtype)
    expected, file = np.load(path), RowFile(path, shape, dtype)
    assert len(file) == shape[0]
    np.testing.assert_array_equal(file.mapped, expected)
    np.testing.assert_array_equal(np.concatenate([expected[:0], *file.blocks(7)]), expected)
    for count in (0, 1, 30, 200):
        offsets = np.random.default_rng(count).integers(max(shape[0], 1), size=count if shape[0] else 0)
        rows = take(file, offsets)
        assert rows.dtype == expected.dtype
        np.testing.assert_array_equal(rows, expected[offsets])


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_several_threads_read_at_once(tmp_path, monkeypatch, read):
    monkeypatch.setattr(row_file, "read_at", read)
    path, values = saved(tmp_path, (5000, 8), "float16")
    file = RowFile(path, (5000, 8), "float16")
    requests = [np.random.default_rng(seed).integers(5000, size=2000) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        for offsets, rows in zip(requests, threads.map(lambda offsets: take(file, offsets), requests), strict=True):
            np.testing.assert_array_equal(rows, values[offsets])


def test_a_file_is_still_read_when_its_name_is_gone(tmp_path):
    path, values = saved(tmp_path, (50, 8), "float16")
    file = RowFile(path, (50, 8), "float16")
    path.unlink()
    np.testing.assert_array_equal(take(file, [49, 0]), values[[49, 0]])
    np.testing.assert_array_equal(np.concatenate(list(file.blocks(16))), values)
    np.testing.assert_array_equal(file.mapped, values)


def test_a_file_cut_short_while_it_is_open_is_told(tmp_path):
    path, _ = saved(tmp_path, (50, 8), "float16")
    file = RowFile(path, (50, 8), "float16")
    os.truncate(path, path.stat().st_size - 5)
    take(file, [48])
    with pytest.raises(DamagedSegmentError, match=r"rows\.npy: it is truncated"):
        take(file, [0, 49])
    with pytest.raises(DamagedSegmentError, match=r"rows\.npy: it is truncated"):
        list(file.blocks(20))


def test_a_disk_that_fails_is_not_taken_for_damage(tmp_path, monkeypatch):
    path, _ = saved(tmp_path, (50, 8), "float16")
    file = RowFile(path, (50, 8), "float16")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(row_file, "read_at", fail)
    for read in (lambda: take(file, [1]), lambda: list(file.blocks(20))):
        with pytest.raises(CrosslookError, match=r"^cannot read .*rows\.npy: Input/output error$") as raised:
            read()
        assert not isinstance(raised.value, DamagedSegmentError)


@pytest.mark.parametrize(
    "write, reason",
    [
        (lambda path: path.write_bytes(b""), "its header is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "its header is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "it is truncated"),
        (lambda path: path.write_bytes(b"P" + path.read_bytes()), "its header is damaged"),
        (lambda path: np.save(path, np.zeros((49, 8), np.float16)), r"it holds float16 \(49, 8\), expected float16"),
        (lambda path: np.save(path, np.zeros((50, 8), np.float32)), r"it holds float32 \(50, 8\), expected float16"),
        (lambda path: np.save(path, np.zeros((8, 50), np.float16).T), "it is stored by columns"),
        (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "it holds object"),
    ],
    ids=["empty", "header-cut", "rows-cut", "no-numpy", "fewer", "wider", "by-columns", "objects"],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, write, reason):
    path, _ = saved(tmp_path, (50, 8), "float16")
    write(path)
    with pytest.raises(DamagedSegmentError, match=rf"rows\.npy: {reason}"):
        RowFile(path, (50, 8), "float16")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        RowFile(path, (50, 8), "float16")
