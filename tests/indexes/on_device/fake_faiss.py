"""The part of faiss-gpu's interface that is used, computed by NumPy, as `faiss/gpu/GpuIndexFlat.h` describes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray


class GpuIndexFlatConfig:
    useFloat16 = False


class StandardGpuResources:
    pass


class GpuIndexFlatIP:
    """shift: added to every product, for a GPU that computes wrong ones."""

    shift = 0.0

    def __init__(self, resources: StandardGpuResources, dim: int, config: GpuIndexFlatConfig) -> None:
        assert isinstance(resources, StandardGpuResources) and config.useFloat16
        self._rows = np.zeros((0, dim), np.float16)

    @property
    def ntotal(self) -> int:
        return len(self._rows)

    def add(self, rows: NDArray[np.float32]) -> None:
        assert rows.dtype == np.float32
        self._rows = np.concatenate([self._rows, rows.astype(np.float16)])

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        assert queries.dtype == np.float32 and queries.flags.c_contiguous and 0 < k <= 2048
        products = queries.astype(np.float16).astype(np.float32) @ self._rows.astype(np.float32).T + self.shift
        order = np.argsort(-products, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(products, order, axis=1), order

    def reconstruct_batch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        assert rows.dtype == np.int64
        return self._rows[rows].astype(np.float32)


class Kmeans:
    def __init__(self, dim: int, count: int, **settings: Any) -> None:
        assert settings["gpu"] and settings["spherical"]
        self._count = count

    def train(self, sample: NDArray[np.float32]) -> None:
        self.centroids = sample[: self._count]


class ShiftedIndex(GpuIndexFlatIP):
    shift = 0.01


class FullIndex(GpuIndexFlatIP):
    def add(self, rows: NDArray[np.float32]) -> None:
        raise RuntimeError("Error in virtual void* faiss::gpu::allocMemory at x.cpp:1:\nout of memory")


def fake_faiss(index: type[GpuIndexFlatIP] = GpuIndexFlatIP, gpus: int = 1) -> Any:
    """index: `GpuIndexFlatIP`, or one that is broken."""
    return SimpleNamespace(
        GpuIndexFlatConfig=GpuIndexFlatConfig,
        StandardGpuResources=StandardGpuResources,
        GpuIndexFlatIP=index,
        Kmeans=Kmeans,
        get_num_gpus=lambda: gpus,
    )
