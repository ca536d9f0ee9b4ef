"""Exact search: compares every embedding, block by block, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.numbering import Mask, Positions

BLOCK = 1024  # rows that fit a processor's cache
MANTISSA_SHIFT = 13  # bits: a mantissa has 23 in float32 and 10 in float16
FLOAT16_BITS = np.array(0x8FFFFFFF, np.uint32).view(np.int32)  # all but the copies of the sign that a shift makes
REBIAS = np.float32(2.0**112)  # the exponents' biases are 127 and 15
LARGEST_FLOAT16 = 65504.0


def nearest(
    queries: NDArray[np.float32],
    arrays: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[Mask | None],
    k: int,
) -> tuple[NDArray[np.float32], Positions]:
    """The k largest inner products of each query with the rows of `arrays`, which are taken as one long array.

    queries: float32 [q, dim]. arrays: [rows, dim]. masks: for each array the rows that may be returned, bool [rows],
    None for all of them. k: 1 or more. Returns similarities float32 [q, k] and positions int64 [q, k], best first,
    equals by position, padded with -inf and -1. Every similarity is a dot product by itself: it does not depend on how
    rows are split into arrays, nor on the other queries. Rows whose similarity is NaN are not returned."""
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
            is_complete = len(rows) == min(BLOCK, len(array) - low)
            block = as_float32(array[low : low + BLOCK] if is_complete else array[rows])
            for index, query in enumerate(queries):
                _improve(best[index], positions[index], np.vecdot(block, query), start + rows)
        start += len(array)
    return best, positions


def _improve(
    best: NDArray[np.float32], best_positions: Positions, block: NDArray[np.float32], block_positions: Positions
) -> None:
    """Merge the similarities of a block into the best of one query, in place. The block's positions are all larger than
    the others, so that a stable sort keeps equals in the order of their positions."""
    better = np.flatnonzero(block > best[-1])
    if not len(better):
        return
    if len(better) > len(best):
        least = np.partition(block[better], -len(best))[-len(best)]
        better = better[block[better] >= least]
    similarities = np.concatenate([best, block[better]])
    order = np.argsort(-similarities, kind="stable")[: len(best)]
    best[:] = similarities[order]
    best_positions[:] = np.concatenate([best_positions, block_positions[better]])[order]


def as_float32(block: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """A block as float32, contiguous. float16 is converted by passes over its bits, in a quarter of the time that NumPy
    takes."""
    block = np.ascontiguousarray(block)
    if block.dtype != np.float16:
        return np.asarray(block, dtype=np.float32)
    # Shift sign, exponent and mantissa into float32 layout, then rescale. NaN and inf become large finite values,
    # detected by the range check below.
    bits = block.view(np.int16).astype(np.int32)
    bits <<= MANTISSA_SHIFT
    bits &= FLOAT16_BITS
    values = bits.view(np.float32)
    values *= REBIAS
    is_finite = not values.size or (values.max() <= LARGEST_FLOAT16 and values.min() >= -LARGEST_FLOAT16)
    return values if is_finite else block.astype(np.float32)
