"""How far a matrix product may lie from the dot products that an exact search compares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT_ROUNDOFF = 2.0**-24  # of float32
LARGEST_PRODUCT = 1e30  # of two norms: below it, no sum overflows float32
SMALLEST_SUM = 1e-30  # covers what underflows


def sum_error(dim: int) -> float:
    """The largest error of an inner product in float32, as a share of the product of both norms, in whatever order it
    is summed, with or without fused operations (Higham 2002, "Accuracy and Stability of Numerical Algorithms", 3.1; the
    bound is n u / (1 - n u)). It is doubled."""
    return 2.0 * (dim + 1) * UNIT_ROUNDOFF


def longest(squares: NDArray[np.float32], dim: int) -> float:
    """No vector has a larger Euclidean norm. squares: of vectors, the sums of their `dim` squares as float32 computes
    them, float32 [n], finite. Squares that underflow are counted, as if each had reached the smallest normal number."""
    largest = float(squares.max(initial=0.0)) + dim * float(np.finfo(np.float32).tiny)
    return math.sqrt(largest) * (1 + sum_error(dim))


def norms(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The Euclidean norms of some vectors, [n, dim], float64 [n]; inf or nan where one is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.linalg.norm(vectors.astype(np.float64), axis=1))
