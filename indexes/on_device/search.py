"""The nearest rows of a snapshot, by a device: what `Collection.nearest(exact=True)` returns, to the bit."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.addresses import both
from indexes.collection import Collection
from indexes.filters import Filter, MaskCache
from indexes.numbering import Mask, Positions
from indexes.on_device.base import LONGEST_SHORTLIST, Backend
from indexes.on_device.certificate import Special, certified
from indexes.on_device.resident import resident_for
from indexes.open_files import Closable
from indexes.search import Nearest

MASKS_KEPT = 8  # of filters, each a byte a row on the device and in memory


class DeviceSearch:
    """Over one snapshot. Any number of threads may use it. After `close`, or that of the collection, `nearest` raises
    `CrosslookError`; searches that are running end as usual."""

    def __init__(self, collection: Collection, backend: Backend) -> None:
        """Loads the embeddings, unless another search of this process over the same collection has: then only those
        that are new. Raises `DeviceError` where the device cannot hold them, `CrosslookError` if they cannot be
        read."""
        self._collection = collection
        folder = os.path.realpath(collection.folder)
        resident, layout = resident_for(folder, backend, collection.binding.dim, collection.segments)
        self._resident = Closable(resident)
        self._layout = layout
        lengths = np.array([len(segment) for segment in collection.segments], np.int64)
        with_rows = np.flatnonzero(lengths)
        by_row = with_rows[np.argsort(layout.starts[with_rows])]
        self._first_rows = layout.starts[by_row]
        self._first_positions = collection.starts[by_row]
        self._masks = MaskCache()
        self._barred: OrderedDict[tuple[Filter, ...], tuple[Any, Special]] = OrderedDict()
        self._lock = Lock()

    def nearest(self, queries: NDArray[np.float32], count: int, filters: Sequence[Filter] = ()) -> Nearest:
        """See `Collection.nearest` with `exact`. Queries for which the device proves nothing are compared with all rows
        by the processor. Raises `DeviceError` when the device fails: then the collection can be asked instead."""
        resident = self._resident.get()
        is_for_device = queries.shape[1:] == (self._collection.binding.dim,) and 1 <= count < LONGEST_SHORTLIST
        if not (is_for_device and len(queries) and len(self._first_rows)):
            return self._collection.nearest(queries, count, filters, exact=True)
        barred, special = self._rows_to_leave_out(tuple(filters))
        result = certified(resident.matrix, queries, count, self._layout.rows, barred, special, self._positions)
        similarities, positions = result.similarities, self._positions(result.rows)
        uncertain = np.flatnonzero(~result.is_certain)
        if len(uncertain):
            compared = self._collection.nearest(queries[uncertain], count, filters, exact=True)
            similarities[uncertain], positions[uncertain] = compared
        return similarities, positions

    def close(self) -> None:
        """Let the embeddings go, unless another search uses them. Closing twice is allowed."""
        self._resident.close()

    def _positions(self, rows: NDArray[np.int64]) -> Positions:
        """The positions of rows of the device, of any shape; -1 stays."""
        at = np.maximum(np.searchsorted(self._first_rows, rows, side="right") - 1, 0)
        positions = self._first_positions[at] + rows - self._first_rows[at]
        return np.where(rows < 0, -1, positions)

    def _rows_to_leave_out(self, filters: tuple[Filter, ...]) -> tuple[Any, Special]:
        """What bars the rows that are dead, do not pass or are of no segment; and the special rows that may be
        returned."""
        with self._lock:
            if filters in self._barred:
                self._barred.move_to_end(filters)
                return self._barred[filters]
        mask, resident = self._mask(filters), self._resident.get()
        special = resident.special(mask, self._layout)
        mask[special.rows] = True
        left_out = resident.matrix.barred(mask) if mask.any() else None, special
        with self._lock:
            self._barred[filters] = left_out
            while len(self._barred) > MASKS_KEPT:
                self._barred.popitem(last=False)
        return left_out

    def _mask(self, filters: tuple[Filter, ...]) -> Mask:
        """True for rows to leave out, bool [rows]."""
        collection = self._collection
        masks = list(collection.alive)
        if filters:
            pairs = zip(masks, collection.segments, strict=True)
            masks = [both(alive, self._masks.mask(segment, filters)) for alive, segment in pairs]
        mask = np.ones(self._layout.rows, np.bool_)
        for start, segment, allowed in zip(self._layout.starts.tolist(), collection.segments, masks, strict=True):
            mask[start : start + len(segment)] = False if allowed is None else ~allowed
        return mask
