"""Pillow's resizing as two matrix products, for machines that multiply faster than they loop.

Pillow resamples an image in two passes, along rows and then along columns. Each pass is linear in the pixels:

    out = round(V round(I H^T))      I [height, width], H [out_width, width], V [out_height, height]

(or round(round(V I) H^T), see `columns_first`). A row of H holds the weights with which one output pixel sums its input
pixels. Weights are rounded to 22 bits and results to 8, as Pillow does. So the outputs agree, except where float32 sums
decide a tie the other way: by one level, in some 10^-4 of the values. Source: Pillow's `libImaging/Resample.c`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRECISION = 1 << 22  # of Pillow's weights


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -1/2."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - np.abs(x), 0)


_KERNELS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "bicubic": (_bicubic, 2.0),
    "bilinear": (_bilinear, 1.0),
}


def columns_first(width: int, height: int, new_width: int, new_height: int) -> bool:
    """Whether Pillow, from version 13 on, resamples along the columns first: where the height shrinks more than twice
    as much as the width. Earlier versions never did; their results differ from these by a level."""
    return height - new_height > max(0, 2 * (width - new_width))


def columns_used(length: int, resized: int, interpolation: str, rows: range) -> range:
    """The input pixels that these output pixels of one pass are sums of."""
    _, low, high = _bounds(length, resized, interpolation, rows)
    return range(int(low[0]), int(high[-1]))


def resampling_matrix(
    length: int, resized: int, interpolation: str, rows: range | None = None, columns: range | None = None
) -> NDArray[np.float32]:
    """The weights of one pass, float32 [resized, length], or a part of them: of the output pixels `rows`, for the input
    pixels `columns`, which must be all that those use. interpolation: `bicubic` or `bilinear`.

    Only the weights that are not zero are computed, in float64: some 4 * length of them at most."""
    rows = range(resized) if rows is None else rows
    columns = range(length) if columns is None else columns
    kernel, _ = _KERNELS[interpolation]
    centers, low, high = _bounds(length, resized, interpolation, rows)
    used = low[:, None] + np.arange((high - low).max())
    weights = kernel((used - centers[:, None] + 0.5) / max(length / resized, 1.0))
    weights *= used < high[:, None]
    weights /= weights.sum(axis=1, keepdims=True)
    weights = np.trunc(weights * PRECISION + np.copysign(0.5, weights)) / PRECISION
    matrix = np.zeros((len(rows), len(columns)), np.float32)
    is_used = used < high[:, None]
    matrix[np.nonzero(is_used)[0], used[is_used] - columns.start] = weights[is_used]
    return matrix


def _bounds(
    length: int, resized: int, interpolation: str, rows: range
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Of each output pixel: its center among the input pixels, the first of those that it is a sum of, and the one
    after their last."""
    scale = length / resized
    support = _KERNELS[interpolation][1] * max(scale, 1.0)  # a picture that shrinks has more pixels below the kernel
    centers = (np.arange(rows.start, rows.stop) + 0.5) * scale
    low: NDArray[np.int64] = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    high: NDArray[np.int64] = np.minimum((centers + support + 0.5).astype(np.int64), length)
    return centers, low, high
