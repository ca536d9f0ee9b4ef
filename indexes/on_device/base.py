"""What a device is to a search, whatever library reaches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.numbering import Mask

LONGEST_SHORTLIST = 2048  # what every library can return; only fewer rows can be proved to be the nearest

# Of each of some rows, float16 [n, dim], the centroid with the largest inner product, int64 [n], up to the rounding of
# float16. Any number of threads may call it. Raises `DeviceError`.
Chooser = Callable[[NDArray[np.float16]], NDArray[np.int64]]


class DeviceError(Exception):
    """A device cannot do it: it has too little memory, or its library failed. The message is the reason, without a
    remedy: the processor does it instead."""


@dataclass(frozen=True)
class Shortlists:
    """The rows with the largest products, of q queries.

    rows: int64 [q, n], -1 where fewer rows may be returned. products: float32 [q, n], as the device computes them.
    bounds: float64 [q]; no row that may be returned, and is not in the shortlist, has a larger product. -inf where all
    of them are in it."""

    rows: NDArray[np.int64]
    products: NDArray[np.float32]
    bounds: NDArray[np.float64]


class Matrix(Protocol):
    """Rows in a device's memory, as float16, numbered from 0. Rows are added and never change, so that any number of
    threads may search while one adds. Products are those of queries that are rounded to float16, and are summed in
    float32.

    norm: no row has a larger Euclidean norm. Methods raise `DeviceError`."""

    norm: float

    def __len__(self) -> int: ...

    def add(self, block: NDArray[np.float16]) -> NDArray[np.int64]:
        """Add rows, [n, dim]. Returns which of them have values that are not finite, int64, ascending: those are stored
        as zeros, and the caller bars them in every search. After an error none of the rows count."""
        ...

    def barred(self, mask: Mask) -> Any:
        """What `shortlists` takes for a mask, True for rows that must not be returned, bool [rows]."""
        ...

    def shortlists(self, queries: NDArray[np.float32], count: int, rows: int, barred: Any) -> Shortlists:
        """`count` of the first `rows` rows for each query, or all where they are fewer. queries: float32 [q, dim].
        count: up to `LONGEST_SHORTLIST`. barred: of these rows, None for no row."""
        ...

    def fetch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as they were added, float32 [n, dim]. rows: int64 [n]."""
        ...


class Backend(Protocol):
    """A library that reaches a device, and is a hashable value. name: of both, for people."""

    @property
    def name(self) -> str: ...

    def __hash__(self) -> int: ...

    def matrix(self, dim: int, rows: int) -> Matrix:
        """An empty matrix with room for so many rows, and more where the device allows it. Raises `DeviceError`."""
        ...

    def centroids(self, sample: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """The centroids of an ANN index's lists, float32 [count, dim], of unit norm: spherical k-means by inner
        product. sample: float32 [n, dim], at least `count` rows. Raises `DeviceError`."""
        ...

    def chooser(self, centroids: NDArray[np.float32]) -> Chooser:
        """What chooses the list of rows. centroids: float32 [lists, dim]. Raises `DeviceError`."""
        ...
