"""The candidates of a query that a collection holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.rows import Row
from retrieval import images
from retrieval.images import Photo, UnreadableImage

ReadFile = Callable[[bytes], bytes]  # the content of an image file, by the path that is stored of it


def read_file(path: bytes) -> bytes:
    """Raises `OSError`."""
    return Path(os.fsdecode(path)).read_bytes()


class CollectionCandidates:
    """`Candidates` at some positions of a collection. fetch_seconds: how long reading their regions took, None if they
    were not read."""

    def __init__(
        self,
        collection: Collection,
        positions: NDArray[np.int64],
        similarities: NDArray[np.float32],
        read: ReadFile = read_file,
    ) -> None:
        """positions: int64 [n]. similarities: float32 [n]. read: may raise `OSError` or `UnreadableImage`."""
        self.positions = positions
        self.similarities = similarities
        self.fetch_seconds: float | None = None
        self.collection = collection
        self._read = read

    def __len__(self) -> int:
        return len(self.positions)

    def regions(self) -> NDArray[Any]:
        started = time.perf_counter()
        regions = self.collection.regions(self.positions)
        self.fetch_seconds = time.perf_counter() - started
        return regions

    def rows(self) -> list[Row]:
        return self.collection.rows(self.positions)

    def photos(self, side: int) -> Iterator[Photo | None]:
        for row in self.rows():
            try:
                yield images.decode(self._read(row.path), side)
            except (OSError, UnreadableImage):
                yield None
