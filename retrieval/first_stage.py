"""The first stage of a search: the images nearest to a query, by the collection or a GPU that holds its embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.filters import Filter
from indexes.search import Nearest

if TYPE_CHECKING:
    from indexes.on_device.base import Backend
    from indexes.on_device.search import DeviceSearch

PAYING = 10**9  # queries times rows; comparing them takes a processor longer than a GPU takes to start and to load


class FirstStage:
    """Over one snapshot of a collection, for any number of threads."""

    def __init__(self, collection: Collection, device: str) -> None:
        """device: `cpu`; `cuda` for a GPU; `auto` for a GPU where there is one, once so many queries were asked
        together that it pays, of a collection without an ANN index. Raises `CrosslookError` for another name, and for
        `cuda` where no library finds a GPU.

        fault: why the GPU that was asked for does not hold the embeddings; None if it does, or none was asked for."""
        self.fault: str | None = None
        self._collection = collection
        self._device = device
        self._backend: Backend | None = None
        self._search: DeviceSearch | None = None
        self._pairs = 0
        self._lock = Lock()
        if device not in ("cpu", "auto"):
            from indexes.on_device.choosing import find_backend

            self._backend = find_backend(device)

    def load(self) -> None:
        """Load the embeddings to the GPU that was asked for, if they are not there yet. Where that cannot be done,
        `fault` says why, and the collection is searched as without one."""
        with self._lock:
            if self._backend is None or self._search is not None or self.fault is not None:
                return
            from indexes.on_device.base import DeviceError
            from indexes.on_device.choosing import check
            from indexes.on_device.search import DeviceSearch

            try:
                check(self._backend)
                self._search = DeviceSearch(self._collection, self._backend)
            except DeviceError as error:
                self.fault = str(error)

    def follow(self, earlier: FirstStage) -> None:
        """Share the GPU's memory with an earlier snapshot, if that is there, and this one would take a GPU by itself:
        now, since the earlier may be closed soon. Only new rows are loaded."""
        if earlier._search is not None and (self._device != "auto" or self._collection.ann is None):
            self._backend = earlier._backend
            self.load()

    def warm(self) -> None:
        """Load what the first search will need: the embeddings to the GPU, else the ANN index."""
        self.load()
        if self._search is None:
            _ = self._collection.ann

    def nearest(self, queries: NDArray[np.float32], count: int, filters: Sequence[Filter]) -> Nearest:
        """See `Collection.nearest`. With a GPU all rows are compared."""
        if self._device == "auto":
            self._note_work(queries)
        self.load()
        search = self._search
        if search is not None:
            from indexes.on_device.base import DeviceError

            try:
                return search.nearest(queries, count, filters)
            except DeviceError as error:
                with self._lock:
                    self.fault, self._search = str(error), None
        return self._collection.nearest(queries, count, filters)

    def close(self) -> None:
        """Free the GPU's memory, unless another engine of this process searches the same collection."""
        with self._lock:
            if self._search is not None:
                self._search.close()

    def _note_work(self, queries: NDArray[np.float32]) -> None:
        """Take the GPU as soon as queries that were asked together make it pay."""
        if len(queries) < 2 or self._backend is not None or self._pairs >= PAYING:
            return
        self._pairs += len(queries) * int(self._collection.starts[-1])
        if self._pairs >= PAYING and self._collection.ann is None:
            from indexes.on_device.choosing import find_backend

            self._backend = find_backend("auto")
