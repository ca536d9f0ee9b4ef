"""Rows in the memory of a GPU of FAISS: for installations with faiss-gpu, and without a torch that finds the GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.ann.faiss_module import import_faiss
from indexes.exact import as_float32
from indexes.numbering import Mask
from indexes.on_device.base import LONGEST_SHORTLIST, Chooser, DeviceError, Shortlists

ITERATIONS = 10  # as FAISS has for inverted lists


@dataclass(frozen=True)
class FaissBackend:
    """The first GPU of FAISS, for installations that have faiss-gpu and no torch. See `Backend`."""

    @property
    def name(self) -> str:
        """See `Backend`."""
        return "FAISS on a GPU"

    def matrix(self, dim: int, rows: int) -> FaissMatrix:
        """See `Backend`."""
        return FaissMatrix(dim)

    def centroids(self, sample: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """See `Backend`."""
        dim = sample.shape[1]
        try:
            kmeans = import_faiss().Kmeans(
                dim, count, niter=ITERATIONS, spherical=True, gpu=True, min_points_per_centroid=1
            )
            kmeans.train(sample)
        except RuntimeError as error:
            raise _device_error(error) from error
        return np.asarray(kmeans.centroids, np.float32)

    def chooser(self, centroids: NDArray[np.float32]) -> Chooser:
        """See `Backend`."""
        matrix = FaissMatrix(centroids.shape[1])
        matrix.add(centroids.astype(np.float16))
        return lambda rows: matrix.shortlists(as_float32(rows), 1, len(centroids), None).rows[:, 0]


class FaissMatrix:
    """See `Matrix`. FAISS has no masks on a GPU: a shortlist is as much longer as rows are barred, and loses those."""

    def __init__(self, dim: int) -> None:
        faiss = import_faiss()
        self.norm = 0.0
        self._lock = Lock()  # an index on a GPU is made for one thread
        try:
            self._resources = faiss.StandardGpuResources()  # the index does not keep it alive
            config = faiss.GpuIndexFlatConfig()
            config.useFloat16 = True
            self._index: Any = faiss.GpuIndexFlatIP(self._resources, dim, config)
        except RuntimeError as error:
            raise _device_error(error) from error

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, block: NDArray[np.float16]) -> NDArray[np.int64]:
        """See `Matrix`."""
        values = as_float32(block)
        squares = np.vecdot(values, values)
        irregular = np.flatnonzero(~np.isfinite(squares))
        values[irregular], squares[irregular] = 0, 0
        try:
            with self._lock:
                self._index.add(values)
        except RuntimeError as error:
            raise _device_error(error) from error
        self.norm = max(self.norm, 1.001 * math.sqrt(squares.max(initial=0.0)))  # the sum was rounded
        return irregular

    def barred(self, mask: Mask) -> Any:
        """See `Matrix`."""
        return np.array(mask)

    def shortlists(self, queries: NDArray[np.float32], count: int, rows: int, barred: Any) -> Shortlists:
        """See `Matrix`. A shortlist may be shorter than asked for."""
        allowed = np.ones(rows, np.bool_) if barred is None else ~barred
        share = max(int(np.count_nonzero(allowed)), 1) / len(self)
        length = min(math.ceil(count / share), LONGEST_SHORTLIST, len(self))
        try:
            with self._lock:
                held = len(self)
                products, indices = self._index.search(np.ascontiguousarray(queries), length)
        except RuntimeError as error:
            raise _device_error(error) from error
        bounds = np.full(len(queries), -np.inf) if length >= held else products[:, -1].astype(np.float64)
        is_listed = (indices >= 0) & (indices < rows)
        is_listed[is_listed] = allowed[indices[is_listed]]
        return Shortlists(np.where(is_listed, indices, -1), products, bounds)

    def fetch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Matrix`."""
        try:
            with self._lock:
                return np.asarray(self._index.reconstruct_batch(rows), np.float32)
        except RuntimeError as error:
            raise _device_error(error) from error


def _device_error(error: RuntimeError) -> DeviceError:
    """faiss names the source line and the call in its first lines, and the reason in the last."""
    return DeviceError(f"FAISS: {(str(error).splitlines() or ['failed'])[-1]}")
