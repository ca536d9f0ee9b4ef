"""Exact search: every embedding is compared, block by block, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError

BLOCK = 16_384


def nearest(
    queries: NDArray[np.float32],
    arrays: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[NDArray[np.bool_] | None],
    k: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest inner products of each query with the rows of `arrays`, taken as one long array.

    queries: float32 [q, dim]. masks: for each array the rows that may be found, None for all. Returns similarities
    float32 [q, k] and positions int64 [q, k], best first, equals by position, padded with -inf and -1."""
    faiss = import_faiss()
    best = np.full((len(queries), k), -np.inf, np.float32)
    positions = np.full((len(queries), k), -1, np.int64)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    start = 0
    for array, mask in zip(arrays, masks, strict=True):
        for low in range(0, len(array), BLOCK):
            rows = np.arange(low, min(low + BLOCK, len(array)))
            if mask is not None:
                rows = rows[mask[rows]]
            if not len(rows):
                continue
            whole = len(rows) == min(BLOCK, len(array) - low)
            block = np.asarray(array[low : low + BLOCK] if whole else array[rows], dtype=np.float32)
            found, offsets = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            best, positions = _merge(best, positions, found, np.where(offsets < 0, -1, start + rows[offsets]))
        start += len(array)
    return best, positions


def _merge(
    best: NDArray[np.float32], positions: NDArray[np.int64], found: NDArray[np.float32], new: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    k = best.shape[1]
    similarities = np.concatenate([best, np.where(new < 0, -np.inf, found)], axis=1)
    candidates = np.concatenate([positions, new], axis=1)
    order = np.lexsort((np.where(candidates < 0, np.iinfo(np.int64).max, candidates), -similarities), axis=1)[:, :k]
    return np.take_along_axis(similarities, order, 1).astype(np.float32), np.take_along_axis(candidates, order, 1)


def import_faiss() -> Any:
    """The faiss module. Raises `CrosslookError` that says which extra brings it."""
    try:
        import faiss
    except ImportError as error:
        raise CrosslookError(
            "faiss is not installed: pip install 'crosslook[cpu]', or 'crosslook[gpu]' on a machine with a GPU"
        ) from error
    return faiss
