"""Rows of one size in a NumPy file: read where some are wanted, mapped where all of them are gone through."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
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

    Rows that lie here and there are read, not taken from the mapping. There each would bring the pages around it into
    this process's memory, until all of the file were in it; and from a disk 128 KiB, in place of 4."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        """Raises `CrosslookError` when the file does not hold such an array, or cannot be read now, `FileNotFoundError`
        when it is gone."""
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._row_bytes = self.dtype.itemsize * math.prod(shape[1:])
        try:
            self._file = path.open("rb", buffering=0)
            self._start = self._first_row(self._file)
        except OSError as error:
            raise unreadable(error, path) from error

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def mapped(self) -> NDArray[Any]:
        """All rows, [rows, ...]."""
        if not len(self):
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self._file, self.dtype, "r", self._start, self.shape)

    def take(self, offsets: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at some offsets, [n, ...], in their order. Raises `CrosslookError` when they cannot be read."""
        descriptor, size = self._file.fileno(), self._row_bytes
        places = (self._start + size * offsets).tolist()
        try:
            content = b"".join([_read_at(descriptor, size, place) for place in places])
        except OSError as error:
            raise unreadable(error, self.path) from error
        return self._rows(content, len(places))

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        """From the first row to the last, `rows` at a time, read likewise."""
        for low in range(0, len(self), rows):
            count = min(rows, len(self) - low)
            try:
                content = _read_at(self._file.fileno(), self._row_bytes * count, self._start + self._row_bytes * low)
            except OSError as error:
                raise unreadable(error, self.path) from error
            yield self._rows(content, count)

    def _rows(self, content: bytes, count: int) -> NDArray[Any]:
        if len(content) != self._row_bytes * count:
            raise self._damaged("it is truncated")
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def _first_row(self, file: IO[bytes]) -> int:
        """Where it begins, in bytes, of a file that holds what it should."""
        try:
            with _reading_header:
                np.lib.format.read_magic(file)
                shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)  # as written
        except ValueError as error:
            raise self._damaged("its header is damaged") from error
        if in_columns:
            raise self._damaged("it is stored by columns")
        if shape != self.shape or dtype != self.dtype:
            raise self._damaged(f"it holds {dtype} {shape}, expected {self.dtype} {self.shape}")
        start = file.tell()
        if os.fstat(file.fileno()).st_size < start + self._row_bytes * len(self):
            raise self._damaged("it is truncated")
        return start

    def _damaged(self, reason: str) -> DamagedSegmentError:
        return DamagedSegmentError(self.path.parent, self.path.name, reason)


def _read_by_seeking(descriptor: int, size: int, place: int) -> bytes:
    """What `os.pread` does, which Windows has not."""
    with _seeking:
        os.lseek(descriptor, place, os.SEEK_SET)
        return os.read(descriptor, size)


_read_at = getattr(os, "pread", _read_by_seeking)
