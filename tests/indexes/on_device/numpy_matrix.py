"""A device's matrix in NumPy: slow, and obviously what `Matrix` says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.numbering import Mask
from indexes.on_device.base import Chooser, DeviceError, Shortlists


@dataclass(frozen=True)
class NumpyBackend:
    """most: rows that a matrix may hold. matrices: how many may be made. calls: of `shortlists`, the number of queries
    and the count. added: rows, block by block. made: rows of matrices."""

    most: int = 10**9
    matrices: int = 10**9
    calls: list[tuple[int, int]] = field(default_factory=list, compare=False)
    added: list[int] = field(default_factory=list, compare=False)
    made: list[int] = field(default_factory=list, compare=False)

    @property
    def name(self) -> str:
        return "NumPy"

    def matrix(self, dim: int, rows: int) -> NumpyMatrix:
        if rows > self.most:
            raise DeviceError(f"{rows} rows do not fit")
        self.made.append(rows)
        if len(self.made) > self.matrices:
            raise DeviceError("no memory is left")
        return NumpyMatrix(self, dim)

    def centroids(self, sample: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """Spherical k-means in loops; a list without rows keeps its centroid."""
        first = np.random.default_rng(0).permutation(len(sample))[:count]
        centroids = sample[first].copy()
        for _ in range(10):
            lists = (sample @ centroids.T).argmax(axis=1)
            for number in range(count):
                if (lists == number).any():
                    centroids[number] = sample[lists == number].mean(axis=0)
            centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
        return centroids

    def chooser(self, centroids: NDArray[np.float32]) -> Chooser:
        return lambda rows: np.asarray((rows.astype(np.float32) @ centroids.T).argmax(axis=1))


class NumpyMatrix:
    def __init__(self, backend: NumpyBackend, dim: int) -> None:
        self.norm = 0.0
        self._backend = backend
        self._rows = np.zeros((0, dim), np.float16)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, block: NDArray[np.float16]) -> NDArray[np.int64]:
        if len(self) + len(block) > self._backend.most:
            raise DeviceError("no memory is left")
        self._backend.added.append(len(block))
        block = np.array(block)
        irregular = np.flatnonzero(~np.isfinite(block).all(axis=1))
        block[irregular] = 0
        lengths = np.linalg.norm(block.astype(np.float64), axis=1)
        self.norm = max(self.norm, float(lengths.max(initial=0.0)))
        self._rows = np.concatenate([self._rows, block])
        return irregular

    def barred(self, mask: Mask) -> Any:
        return np.array(mask)

    def shortlists(self, queries: NDArray[np.float32], count: int, rows: int, barred: Any) -> Shortlists:
        self._backend.calls.append((len(queries), count))
        with np.errstate(over="ignore", invalid="ignore"):
            halves = queries.astype(np.float16).astype(np.float32)
            products = halves @ self._rows[:rows].astype(np.float32).T
        if barred is not None:
            products[:, barred] = -np.inf
        order = np.argsort(-products, axis=1, kind="stable")[:, :count]
        best = np.take_along_axis(products, order, axis=1)
        bounds = best[:, -1].astype(np.float64) if count < rows else np.full(len(queries), -np.inf)
        return Shortlists(np.where(np.isneginf(best), -1, order), best, bounds)

    def fetch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._rows[rows].astype(np.float32)
