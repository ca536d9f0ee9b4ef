"""Exact search: every embedding is compared, block by block, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # rows that fit a processor's cache
HALF_BITS = 13  # that the fraction of a float32 is longer than that of a float16
KEPT = np.array(0x8FFFFFFF, np.uint32).view(np.int32)  # sign, exponent and fraction, not the copies of the sign
REBIAS = np.float32(2.0**112)  # 2 to the difference of the exponents' biases
LARGEST_HALF = 65504.0


def nearest(
    queries: NDArray[np.float32],
    arrays: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[NDArray[np.bool_] | None],
    k: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest inner products of each query with the rows of `arrays`, taken as one long array.

    queries: float32 [q, dim]. masks: for each array the rows that may be found, None for all. k: 1 or more. Returns
    similarities float32 [q, k] and positions int64 [q, k], best first, equals by position, padded with -inf and -1. No
    similarity depends on how rows are split into arrays, nor on other queries: each is a dot product by itself. Rows
    whose similarity is not a number are not found."""
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
            block = as_float32(array[low : low + BLOCK] if whole else array[rows])
            for index, query in enumerate(queries):
                _improve(best[index], positions[index], np.vecdot(block, query), start + rows)
        start += len(array)
    return best, positions


def _improve(
    best: NDArray[np.float32], positions: NDArray[np.int64], found: NDArray[np.float32], places: NDArray[np.int64]
) -> None:
    """Take up, in place, what is better than the worst of the best. places: of what was found, all behind those of the
    best, so that of equals those that are there stay before."""
    better = np.flatnonzero(found > best[-1])
    if not len(better):
        return
    if len(better) > len(best):
        least = np.partition(found[better], -len(best))[-len(best)]
        better = better[found[better] >= least]
    similarities = np.concatenate([best, found[better]])
    order = np.argsort(-similarities, kind="stable")[: len(best)]
    best[:], positions[:] = similarities[order], np.concatenate([positions, places[better]])[order]


def as_float32(block: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """A block as float32, contiguous. float16 by passes over its bits, which take a quarter of the time of numpy's own
    conversion: what differs is where sign, exponent and fraction lie, and the bias of the exponent. So infinities and
    what is not a number become large numbers, and give themselves away."""
    block = np.ascontiguousarray(block)
    if block.dtype != np.float16:
        return np.asarray(block, dtype=np.float32)
    bits = block.view(np.int16).astype(np.int32)
    bits <<= HALF_BITS
    bits &= KEPT
    values = bits.view(np.float32)
    values *= REBIAS
    is_finite = not values.size or (values.max() <= LARGEST_HALF and values.min() >= -LARGEST_HALF)
    return values if is_finite else block.astype(np.float32)
