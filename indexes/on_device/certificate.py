"""From a device's shortlist to the exact nearest rows, with a proof that no row is missed.

A device's product and the dot product of `indexes.exact` differ by at most E: by the rounding of the query to float16,
which is known, and by the rounding of both sums, which is bounded. No row outside of a shortlist has a product above
the shortlist's bound, so that its dot product is at most bound + E. Where the k-th best dot product of the shortlist is
larger than that, the k best rows are all in it. Else the shortlist is made longer, and in the end the caller compares
all rows, which is only needed where many embeddings nearly tie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.numbering import Mask
from indexes.on_device.base import LONGEST_SHORTLIST, Matrix
from indexes.rounding import SMALLEST_SUM, norms, sum_error

SHARE, FEWEST = 1.25, 28  # a shortlist has so many rows a result, and at least so many rows more than results
LONGER = 4
ROWS_AT_ONCE = 131_072  # of all shortlists, which are in memory as float32
LARGEST_FLOAT16 = 60_000.0  # below it, no product overflows
TRUNCATED = 4.0  # sums in which a device drops bits instead of rounding, as a share of rounded ones

Order = Callable[[NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True)
class Special:
    """Rows with values that are not finite, which a device does not hold, and which are barred there. rows: int64 [n],
    ascending. values: float32 [n, dim]."""

    rows: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Certified:
    """similarities: float32 [q, k], rows: int64 [q, k], best first, padded with -inf and -1. is_certain: bool [q],
    whether they are proved to be what `indexes.exact.nearest` returns."""

    similarities: NDArray[np.float32]
    rows: NDArray[np.int64]
    is_certain: Mask


def product_errors(queries: NDArray[np.float32], norm: float) -> NDArray[np.float64]:
    """How far a device's product and a dot product may differ, float64 [q]; inf where no bound holds. queries: float32
    [q, dim]. norm: the largest of the rows."""
    with np.errstate(over="ignore", invalid="ignore"):
        halves = queries.astype(np.float16).astype(np.float64)
        rounding = norms(queries.astype(np.float64) - halves)
        lengths = np.maximum(norms(queries), norms(halves))
        errors = norm * (rounding + (1 + TRUNCATED) * sum_error(queries.shape[1]) * lengths) + SMALLEST_SUM
        return np.where(norm * lengths < LARGEST_FLOAT16, errors, np.inf)


def certified(
    matrix: Matrix,
    queries: NDArray[np.float32],
    k: int,
    rows: int,
    barred: Any,
    special: Special,
    order: Order = lambda rows: rows,
) -> Certified:
    """The k nearest of the first `rows` rows. queries: float32 [q, dim], at least one. barred: see `Matrix`. special:
    those that may be returned nevertheless. order: of rows, int64 of any shape, where they come among equals."""
    queries = np.ascontiguousarray(queries, np.float32)
    errors = product_errors(queries, matrix.norm)
    length = min(max(int(SHARE * k), k + FEWEST), LONGEST_SHORTLIST)
    result = _in_parts(matrix, queries, errors, k, length, rows, barred, special, order)
    while not result.is_certain.all() and length < min(rows, LONGEST_SHORTLIST):
        length = min(LONGER * length, LONGEST_SHORTLIST)
        again = np.flatnonzero(~result.is_certain & np.isfinite(errors))
        if not len(again):
            break
        longer = _in_parts(matrix, queries[again], errors[again], k, length, rows, barred, special, order)
        result.similarities[again], result.rows[again] = longer.similarities, longer.rows
        result.is_certain[again] = longer.is_certain
    return result


def _in_parts(
    matrix: Matrix,
    queries: NDArray[np.float32],
    errors: NDArray[np.float64],
    k: int,
    length: int,
    *rest: Any,
) -> Certified:
    """`_by_shortlists` of as many queries at a time as memory allows."""
    at_once = max(ROWS_AT_ONCE // length, 1)
    parts = [
        _by_shortlists(matrix, queries[low : low + at_once], errors[low : low + at_once], k, length, *rest)
        for low in range(0, len(queries), at_once)
    ]
    if len(parts) == 1:
        return parts[0]
    return Certified(
        np.concatenate([part.similarities for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.is_certain for part in parts]),
    )


def _by_shortlists(
    matrix: Matrix,
    queries: NDArray[np.float32],
    errors: NDArray[np.float64],
    k: int,
    length: int,
    rows: int,
    barred: Any,
    special: Special,
    order: Order,
) -> Certified:
    shortlists = matrix.shortlists(queries, length, rows, barred)
    listed = shortlists.rows
    values = matrix.fetch(np.maximum(listed, 0).ravel()).reshape(*listed.shape, -1)
    similarities = np.vecdot(values, queries[:, None])
    similarities[listed < 0] = -np.inf
    if len(special.rows):
        with np.errstate(over="ignore", invalid="ignore"):
            of_special = np.vecdot(special.values[None], queries[:, None])
        similarities = np.concatenate([similarities, np.where(np.isnan(of_special), -np.inf, of_special)], axis=1)
        listed = np.concatenate([listed, np.tile(special.rows, (len(queries), 1))], axis=1)
    similarities, listed = _best(similarities, listed, k, order)
    with np.errstate(invalid="ignore"):
        is_proved = similarities[:, -1] > shortlists.bounds + errors
    return Certified(similarities, listed, np.isfinite(errors) & (is_proved | np.isneginf(shortlists.bounds)))


def _best(
    similarities: NDArray[np.float32], listed: NDArray[np.int64], k: int, order: Order
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best of each query, [q, k] each, padded."""
    listed = np.where(np.isneginf(similarities), -1, listed)
    best = np.lexsort((order(listed), -similarities), axis=1)[:, :k]
    similarities, listed = np.take_along_axis(similarities, best, 1), np.take_along_axis(listed, best, 1)
    pad = ((0, 0), (0, k - best.shape[1]))
    return np.pad(similarities, pad, constant_values=-np.inf), np.pad(listed, pad, constant_values=-1)
