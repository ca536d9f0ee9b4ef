"""The lists of an ANN index by a device of torch: their centroids, and which list a row belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.on_device.base import Chooser
from indexes.on_device.torch_matrix import PRODUCTS_AT_ONCE
from indexes.on_device.torch_memory import device_errors

ITERATIONS = 10  # as FAISS has for inverted lists
SPLIT = 1 / 1024  # how far two centroids are moved apart that share the rows of one


def torch_centroids(device: str, sample: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """`count` centroids of rows, float32 [count, dim], of unit norm: spherical k-means, from random rows, always the
    same. sample: float32 [n, dim], at least `count` rows. Raises `DeviceError`."""
    import torch

    with device_errors():
        rows = torch.from_numpy(np.ascontiguousarray(sample)).to(device)
        halves = rows.half()
        first = np.random.default_rng(0).permutation(len(sample))[:count]
        centroids = _unit(rows[torch.from_numpy(first).to(device)])
        for _ in range(ITERATIONS):
            lists = _lists(halves, centroids.half())
            centroids = _means(rows, lists, centroids)
        return np.asarray(centroids.cpu().numpy())


def torch_chooser(device: str, centroids: NDArray[np.float32]) -> Chooser:
    """See `Backend.chooser`."""
    import torch

    with device_errors():
        on_device = torch.from_numpy(np.array(centroids)).to(device).half()

    def choose(rows: NDArray[np.float16]) -> NDArray[np.int64]:
        with device_errors():
            return np.asarray(_lists(torch.from_numpy(np.array(rows)).to(on_device.device), on_device).cpu().numpy())

    return choose


def _lists(rows: Any, centroids: Any) -> Any:
    """int64 [n]. rows, centroids: float16, on the device."""
    import torch

    at_once = max(PRODUCTS_AT_ONCE // len(centroids), 1)
    return torch.cat([(block @ centroids.T).argmax(dim=1) for block in rows.split(at_once)])


def _means(rows: Any, lists: Any, centroids: Any) -> Any:
    """The mean of the rows of each list, of unit norm. A list without rows gets half of those of a large one."""
    import torch

    count = len(centroids)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=rows.device)  # whose order does not matter
    at_once = max(PRODUCTS_AT_ONCE // (4 * rows.shape[1]), 1)
    for block, of_block in zip(rows.split(at_once), lists.split(at_once), strict=True):
        sums.index_add_(0, of_block, block.double())
    sizes = torch.bincount(lists, minlength=count)
    means = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], 0.0).float()
    empty = (sizes == 0).nonzero()[:, 0]
    largest = sizes.argsort(descending=True, stable=True)[: min(len(empty), int((sizes > 1).sum()))]
    signs = 1 - 2 * (torch.arange(rows.shape[1], device=rows.device) % 2)
    means[empty[: len(largest)]] = means[largest] * (1 + SPLIT * signs)
    means[largest] = means[largest] * (1 - SPLIT * signs)
    return _unit(means)


def _unit(vectors: Any) -> Any:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
