"""Exact search: every embedding is compared, block by block, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError

BLOCK = 16_384
PAIRWISE = 16  # FAISS multiplies fewer queries than 20 pair by pair, so that a similarity does not depend on its block


def nearest(
    queries: NDArray[np.float32],
    arrays: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[NDArray[np.bool_] | None],
    k: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest inner products of each query with the rows of `arrays`, taken as one long array.

    queries: float32 [q, dim]. masks: for each array the rows that may be found, None for all. Returns similarities
    float32 [q, k] and positions int64 [q, k], best first, equals by position, padded with -inf and -1. The order does
    not depend on how rows are split into arrays."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    best = np.full((len(queries), k), -np.inf, np.float32)
    positions = np.full((len(queries), k), -1, np.int64)
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
            for first in range(0, len(queries), PAIRWISE):
                some = slice(first, first + PAIRWISE)
                found, offsets = _nearest_in(queries[some], block, k)
                new = np.where(offsets < 0, -1, start + rows[offsets])
                best[some], positions[some] = _merge(best[some], positions[some], found, new)
        start += len(array)
    return best, positions


def _nearest_in(
    queries: NDArray[np.float32], block: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """At least the k nearest rows of a block, with all that tie with the last of them: of equals at the end of its list
    FAISS keeps any."""
    faiss = import_faiss()
    wanted = k
    while True:
        wanted = min(wanted + 1, len(block))
        found, offsets = faiss.knn(queries, block, wanted, metric=faiss.METRIC_INNER_PRODUCT)
        if wanted <= k or wanted == len(block) or (found[:, -1] < found[:, k - 1]).all():
            return found, offsets
        wanted *= 2


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
