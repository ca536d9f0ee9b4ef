"""Rows of one size in a NumPy file: pread for single rows, mmap for full scans."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import DamagedSegmentError, unreadable
from indexes.numbering import Offsets, SegmentIndices
from indexes.open_files import Closable, OpenFile

# NumPy parses the header as a Python literal, and CPython 3.11's parser miscounts its depth (SystemError) when two
# threads parse at once.
_reading_header = threading.Lock()
_seeking = threading.Lock()


class RowFile:
    """An array of a segment, [rows, ...], opened for reading. Readers keep working after the writer unlinks the file.

    start: of the first row, in bytes. row_bytes: the size of a row."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        """Raises `CrosslookError` when the file does not hold such an array, or cannot be read now, `FileNotFoundError`
        when it is gone."""
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.row_bytes = self.dtype.itemsize * math.prod(shape[1:])
        try:
            opened = OpenFile(path.open("rb", buffering=0))
            self.start = self._first_row(opened.file)
        except OSError as error:
            raise unreadable(error, path) from error
        self._opened = Closable(opened)

    def __len__(self) -> int:
        return self.shape[0]

    def close(self) -> None:
        """Close the file, once nobody reads it any more. Arrays that were read or mapped stay valid."""
        self._opened.close()

    def opened(self) -> OpenFile:
        """The file, which stays open while the caller refers to it. Raises `CrosslookError` after `close`."""
        return self._opened.get()

    @property
    def mapped(self) -> NDArray[Any]:
        """All rows, [rows, ...]. Raises `CrosslookError` after `close`."""
        opened = self.opened()
        if not len(self):
            return np.zeros(self.shape, self.dtype)
        if opened.mapping is None:
            opened.mapping = np.memmap(opened.file, self.dtype, "r", self.start, self.shape)
        return opened.mapping

    @property
    def is_mapped(self) -> bool:
        """Whether all rows were asked for by `mapped`, so that pages of them may be in memory."""
        return self.opened().mapping is not None

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        """All rows in order, read `rows` at a time. Raises `CrosslookError` when they cannot be read."""
        opened = self.opened()
        for low in range(0, len(self), rows):
            count = min(rows, len(self) - low)
            try:
                content = _read_whole(opened.file.fileno(), self.row_bytes * count, self.start + self.row_bytes * low)
            except OSError as error:
                raise unreadable(error, self.path) from error
            if len(content) != self.row_bytes * count:
                raise self.damaged("it is truncated")
            yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def _first_row(self, file: IO[bytes]) -> int:
        """Where the first row begins, in bytes. Raises where the file does not hold what it should."""
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


def read_rows(files: Sequence[RowFile], indices: SegmentIndices, offsets: Offsets) -> NDArray[Any]:
    """Rows of files that differ in their number of rows alone, [n, ...]. indices: which file each row is in. offsets:
    where in it.

    Rows are read, not taken from mappings. A mapping would bring the pages around each row into this process's memory,
    in time all pages of all files; and it reads 128 KiB from the disk where 4 KiB are enough. Raises `CrosslookError`
    when a row cannot be read, or a file was closed."""
    first, size = files[0], files[0].row_bytes
    opened = [file.opened() for file in files]  # until this returns, they stay open
    descriptors = np.array([file.file.fileno() for file in opened])[indices].tolist()
    starts = (np.array([file.start for file in files])[indices] + size * offsets).tolist()
    rows: list[bytes] = []
    try:
        for descriptor, start in zip(descriptors, starts, strict=True):
            row = read_at(descriptor, size, start)
            rows.append(row if len(row) == size else _read_whole(descriptor, size, start))
    except OSError as error:
        raise unreadable(error, files[indices[len(rows)]].path) from error
    content = b"".join(rows)
    if len(content) != size * len(rows):
        short = next(index for index, row in enumerate(rows) if len(row) != size)
        raise files[indices[short]].damaged("it is truncated")
    return np.frombuffer(content, first.dtype).reshape(len(rows), *first.shape[1:])


def _read_whole(descriptor: int, size: int, start: int) -> bytes:
    """`size` bytes from `start`, fewer only where the file ends. A file system may return fewer at once."""
    content = b""
    while len(content) < size and (part := read_at(descriptor, size - len(content), start + len(content))):
        content += part
    return content


def read_by_seeking(descriptor: int, size: int, start: int) -> bytes:
    """`os.pread` for Windows, which lacks it."""
    with _seeking:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, size)


read_at = getattr(os, "pread", read_by_seeking)
