"""Rows of one size in a NumPy file: read where some are wanted, mapped where all of them are gone through."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import DamagedSegmentError, unreadable

# NumPy parses the header as a Python literal, and CPython 3.11's parser miscounts its depth (SystemError) when two
# threads parse at once.
_reading_header = threading.Lock()
_seeking = threading.Lock()


class RowFile:
    """An array of a segment, [rows, ...], opened for reading: a writer that removes the file later takes nothing away.

    start: where the first row is, in bytes. row_bytes: how long each is."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        """Raises `CrosslookError` when the file does not hold such an array, or cannot be read now, `FileNotFoundError`
        when it is gone."""
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.row_bytes = self.dtype.itemsize * math.prod(shape[1:])
        try:
            self._file = path.open("rb", buffering=0)
            self.start = self._first_row(self._file)
        except OSError as error:
            raise unreadable(error, path) from error

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    @cached_property
    def mapped(self) -> NDArray[Any]:
        """All rows, [rows, ...]."""
        if not len(self):
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self._file, self.dtype, "r", self.start, self.shape)

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        """From the first row to the last, `rows` at a time, read. Raises `CrosslookError` when they cannot be."""
        for low in range(0, len(self), rows):
            count = min(rows, len(self) - low)
            try:
                content = _read_whole(self.descriptor, self.row_bytes * count, self.start + self.row_bytes * low)
            except OSError as error:
                raise unreadable(error, self.path) from error
            if len(content) != self.row_bytes * count:
                raise self.damaged("it is truncated")
            yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def _first_row(self, file: IO[bytes]) -> int:
        """Where it begins, in bytes, of a file that holds what it should."""
        try:
            with _reading_header:
                np.lib.format.read_magic(file)
                shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)  # as written
        except OSError:
            raise
        except Exception as error:  # NumPy reads the header as Python, which raises anything on a damaged one
            raise self.damaged("its header is damaged") from error
        if in_columns:
            raise self.damaged("it is stored by columns")
        if shape != self.shape or dtype != self.dtype:
            raise self.damaged(f"it holds {dtype} {shape}, expected {self.dtype} {self.shape}")
        start = file.tell()
        if os.fstat(file.fileno()).st_size < start + self.row_bytes * len(self):
            raise self.damaged("it is truncated")
        return start

    def damaged(self, reason: str) -> DamagedSegmentError:
        return DamagedSegmentError(self.path.parent, self.path.name, reason)


def read_rows(files: Sequence[RowFile], owners: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of files that differ in their number of rows alone, [n, ...]: of each row its file and its place there.

    They are not taken from mappings. There each would bring the pages around it into this process's memory, until all
    of the files were in it; and from a disk 128 KiB, in place of 4. Raises `CrosslookError` when one cannot be read."""
    first, size = files[0], files[0].row_bytes
    descriptors = np.array([file.descriptor for file in files])[owners].tolist()
    places = (np.array([file.start for file in files])[owners] + size * offsets).tolist()
    rows: list[bytes] = []
    try:
        for descriptor, place in zip(descriptors, places, strict=True):
            row = _read_at(descriptor, size, place)
            rows.append(row if len(row) == size else _read_whole(descriptor, size, place))
    except OSError as error:
        raise unreadable(error, files[owners[len(rows)]].path) from error
    content = b"".join(rows)
    if len(content) != size * len(rows):
        short = next(index for index, row in enumerate(rows) if len(row) != size)
        raise files[owners[short]].damaged("it is truncated")
    return np.frombuffer(content, first.dtype).reshape(len(rows), *first.shape[1:])


def _read_whole(descriptor: int, size: int, place: int) -> bytes:
    """So many bytes, of a file system that may give fewer at once; fewer only where the file ends."""
    content = b""
    while len(content) < size and (part := _read_at(descriptor, size - len(content), place + len(content))):
        content += part
    return content


def _read_by_seeking(descriptor: int, size: int, place: int) -> bytes:
    """What `os.pread` does, which Windows has not."""
    with _seeking:
        os.lseek(descriptor, place, os.SEEK_SET)
        return os.read(descriptor, size)


_read_at = getattr(os, "pread", _read_by_seeking)
