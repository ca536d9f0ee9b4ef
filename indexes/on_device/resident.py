"""The embeddings of a collection in a device's memory, for all its snapshots: loaded once, and added to.

Segments never change, so that a later snapshot adds the rows of its new segments alone. Those of segments that were
merged away stay, barred, until they are too many: then everything is loaded anew."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from indexes.exact import as_float32
from indexes.numbering import Mask, Positions
from indexes.on_device.base import Backend, DeviceError, Matrix
from indexes.on_device.certificate import Special
from indexes.segment import Segment

ROWS_READ = 65_536
MOST_USELESS = 0.25  # rows of no segment of a snapshot, as a share of all
MOST_SPECIAL = 4096  # rows with values that are not finite, which no encoder makes

Identity = tuple[int, ...]  # of a segment's file of embeddings


@dataclass(frozen=True)
class Layout:
    """Where the rows of a snapshot are. rows: how many the matrix held. starts: the first row of each segment, int64
    [segments]."""

    rows: int
    starts: Positions


class Resident:
    """Any number of threads may use it. matrix: rows that later calls add to."""

    def __init__(self, backend: Backend, dim: int, rows: int) -> None:
        """rows: to make room for. Raises `DeviceError`."""
        self.matrix: Matrix = backend.matrix(dim, rows)
        self._starts: dict[Identity, int] = {}
        self._special_rows: list[int] = []
        self._special_values: list[NDArray[np.float16]] = []
        self._lock = Lock()

    def hold(self, segments: Sequence[Segment]) -> Layout:
        """Add the segments that are not held yet. Raises `DeviceError`, and `CrosslookError` for a segment that cannot
        be read."""
        with self._lock:
            identities = [_identity(segment) for segment in segments]
            for identity, segment in zip(identities, segments, strict=True):
                if identity not in self._starts:
                    start = len(self.matrix)
                    self._load(segment)
                    self._starts[identity] = start
            return Layout(len(self.matrix), np.array([self._starts[identity] for identity in identities], np.int64))

    def useless_share(self, segments: Sequence[Segment]) -> float:
        """The share of rows, once these segments are held, that are of none of them."""
        with self._lock:
            new = sum(len(segment) for segment in segments if _identity(segment) not in self._starts)
            rows = len(self.matrix) + new
        return 1 - sum(len(segment) for segment in segments) / max(rows, 1)

    def special(self, barred: Mask, layout: Layout) -> Special:
        """Those of the special rows of a snapshot that are not barred. barred: bool [rows]."""
        with self._lock:
            rows = np.array(self._special_rows, np.int64)
            values = list(self._special_values)
        allowed = rows < layout.rows
        allowed[allowed] = ~barred[rows[allowed]]
        kept = [values[index] for index in np.flatnonzero(allowed).tolist()]
        return Special(rows[allowed], as_float32(np.array(kept, np.float16)))

    def _load(self, segment: Segment) -> None:
        embeddings = segment.embeddings.mapped
        for low in range(0, len(segment), ROWS_READ):
            block = embeddings[low : low + ROWS_READ]
            start = len(self.matrix)
            special = self.matrix.add(block)
            self._special_rows += (start + special).tolist()
            self._special_values += list(np.array(block[special]))
            if len(self._special_rows) > MOST_SPECIAL:
                raise DeviceError(f"more than {MOST_SPECIAL:,} embeddings are not finite")


_residents: WeakValueDictionary[tuple[str, Backend], Resident] = WeakValueDictionary()
_loading: dict[tuple[str, Backend], Lock] = {}  # for minutes; other collections do not wait
_lock = Lock()  # guards both


def resident_for(folder: str, backend: Backend, dim: int, segments: Sequence[Segment]) -> tuple[Resident, Layout]:
    """The embeddings of a collection, with all these segments, and where those are. Everything in this process that
    searches the same collection shares them; they are freed with their last user. Raises as `Resident.hold`."""
    rows, key = sum(len(segment) for segment in segments), (folder, backend)
    with _lock:
        loading = _loading.setdefault(key, Lock())
    with loading:
        with _lock:
            resident = _residents.get(key)
        if resident is None:
            resident = Resident(backend, dim, rows)
        elif resident.useless_share(segments) > MOST_USELESS:
            with suppress(DeviceError):  # there is no room for both
                later = Resident(backend, dim, rows)
                later.hold(segments)
                resident = later
        layout = resident.hold(segments)
        with _lock:
            _residents[key] = resident
        return resident, layout


def _identity(segment: Segment) -> Identity:
    """Two files differ in it while either is open, and in the time afterwards: a collection that was removed and made
    anew in the same folder has segments of the same numbers."""
    status = os.fstat(segment.embeddings.opened().file.fileno())
    return segment.entry.number, status.st_dev, status.st_ino, status.st_mtime_ns, len(segment)
