"""Exact search for many queries: matrix products tell which rows may be among the nearest, dot products compare those.

A product rounds differently from the dot products of `indexes.exact`, by at most `error`. Of a query, let `least` be
the k-th largest product so far, less twice that error. k rows have a larger dot product than every row whose product is
below `least`, so that such a row is not among the k nearest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.exact import as_float32, nearest
from indexes.numbering import Mask, Positions
from indexes.rounding import LARGEST_PRODUCT, SMALLEST_SUM, longest, norms, sum_error

FEWEST_QUERIES = 16  # fewer are compared as fast one by one
FEWEST_ROWS, ROWS_A_RESULT = 4096, 10  # the same
ROWS_AT_ONCE = 4096
QUERIES_AT_ONCE = 256
QUERIES_A_PRODUCT = 16
THREADING = 2**18  # multiplications, above which OpenBLAS splits a product among threads that wait for one another
MOST_CANDIDATES = 4096  # of one query: more, whose embeddings nearly tie, are compared as fast without products


def nearest_of_many(
    queries: NDArray[np.float32],
    arrays: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[Mask | None],
    k: int,
) -> tuple[NDArray[np.float32], Positions]:
    """What `nearest` returns for the same arguments, to the bit, several times as fast for many queries."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    pairs = zip(arrays, masks, strict=True)
    rows = sum(len(array) if mask is None else int(np.count_nonzero(mask)) for array, mask in pairs)
    if len(queries) < FEWEST_QUERIES or rows < max(FEWEST_ROWS, ROWS_A_RESULT * k):
        return nearest(queries, arrays, masks, k)
    starts = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int64)
    similarities, nearest_rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for low in range(0, len(queries), QUERIES_AT_ONCE):
        group = np.arange(low, min(low + QUERIES_AT_ONCE, len(queries)))
        pools = _pools(queries[group], arrays, masks, k)
        for index, pool in zip(group.tolist(), pools, strict=True):
            if pool.positions is not None:
                among = _nearest_among(queries[index], pool.positions, arrays, starts, k)
                similarities[index], nearest_rows[index] = among[0][0], among[1][0]
        rest = group[[pool.positions is None for pool in pools]]
        if len(rest):
            similarities[rest], nearest_rows[rest] = nearest(queries[rest], arrays, masks, k)
    return similarities, nearest_rows


class _Pool:
    """The rows that may be among the k nearest to one query. positions: int64 [n], None once they are too many."""

    def __init__(self, k: int) -> None:
        self.positions: Positions | None = np.zeros(0, np.int64)
        self._products = np.zeros(0, np.float32)
        self._k = k
        self._least = -np.inf

    def add(self, products: NDArray[np.float32], positions: Positions, error: float) -> None:
        """products: float32 [n], with nan for rows that belong to the pool whatever they are. error: of all products
        so far, at most."""
        if self.positions is None:
            return
        is_candidate = ~(products < self._least)
        self._products = np.concatenate([self._products, products[is_candidate]])
        self.positions = np.concatenate([self.positions, positions[is_candidate]])
        is_number = ~np.isnan(self._products)
        numbers = self._products[is_number]
        if len(numbers) > self._k:
            largest = np.partition(numbers, len(numbers) - self._k)[len(numbers) - self._k]
            self._least = max(self._least, float(largest) - 2 * error)
            is_candidate = ~(self._products < self._least)
            self._products, self.positions = self._products[is_candidate], self.positions[is_candidate]
        if len(self.positions) > self._k + MOST_CANDIDATES:
            self.positions = None


def _pools(
    queries: NDArray[np.float32],
    arrays: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[Mask | None],
    k: int,
) -> list[_Pool]:
    """Of each query, after one pass over the rows. queries: up to `QUERIES_AT_ONCE`."""
    pools = [_Pool(k) for _ in queries]
    lengths = norms(queries)
    largest, start = 0.0, 0
    share = sum_error(queries.shape[1])
    for array, mask in zip(arrays, masks, strict=True):
        for low in range(0, len(array), ROWS_AT_ONCE):
            rows = np.arange(low, min(low + ROWS_AT_ONCE, len(array)))
            if mask is not None:
                rows = rows[mask[rows]]
            if not len(rows):
                continue
            if all(pool.positions is None for pool in pools):
                return pools
            is_complete = len(rows) == min(ROWS_AT_ONCE, len(array) - low)
            block = as_float32(array[low : low + ROWS_AT_ONCE] if is_complete else array[rows])
            with np.errstate(over="ignore", invalid="ignore"):
                products = _products(queries, block)
                squares = np.vecdot(block, block)
            is_finite = np.isfinite(squares)
            if not is_finite.all():
                products[:, ~is_finite] = np.nan
            largest = max(largest, longest(squares[is_finite], block.shape[1]))
            for pool, row, length in zip(pools, products, lengths.tolist(), strict=True):
                if not largest * length < LARGEST_PRODUCT:
                    pool.positions = None
                pool.add(row, start + rows, 2 * share * largest * length + SMALLEST_SUM)  # of a product, and of a dot
        start += len(array)
    return pools


def _products(queries: NDArray[np.float32], block: NDArray[np.float32]) -> NDArray[np.float32]:
    """`queries @ block.T` by products that are too small for several threads: those would fight for the cores with the
    threads of other queries."""
    rows, dim = block.shape
    at_once = max(THREADING // (QUERIES_A_PRODUCT * dim), 1)
    stacked = rows // at_once * at_once
    stack = block[:stacked].reshape(stacked // at_once, at_once, dim)
    products = np.empty((len(queries), rows), np.float32)
    for low in range(0, len(queries), QUERIES_A_PRODUCT):
        columns = np.ascontiguousarray(queries[low : low + QUERIES_A_PRODUCT].T)
        part = products[low : low + QUERIES_A_PRODUCT]
        part[:, :stacked] = (stack @ columns).reshape(stacked, columns.shape[1]).T
        part[:, stacked:] = (block[stacked:] @ columns).T
    return products


def _nearest_among(
    query: NDArray[np.float32],
    positions: Positions,
    arrays: Sequence[NDArray[np.floating[Any]]],
    starts: Positions,
    k: int,
) -> tuple[NDArray[np.float32], Positions]:
    """What `nearest` returns if these rows alone may be returned. positions: ascending."""
    bounds = zip(arrays, starts.tolist(), pairwise(np.searchsorted(positions, starts).tolist()), strict=False)
    rows = [array[positions[low:high] - start] for array, start, (low, high) in bounds if low < high]
    similarities, indices = nearest(query[None], rows, [None] * len(rows), k)
    return similarities, np.where(indices < 0, -1, np.append(positions, -1)[indices])
