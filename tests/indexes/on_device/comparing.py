"""A device's search against the collection's exact one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.filters import Filter
from indexes.numbering import Mask
from indexes.on_device.search import DeviceSearch
from indexes.segment import Segment
from tests.batches import BINDING


@dataclass(frozen=True)
class Third:
    """Passes every third id."""

    def mask(self, segment: Segment) -> Mask:
        return np.asarray(segment.ids % 3 == 0)


def queries_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    queries = np.random.default_rng(seed).normal(size=(count, BINDING.dim))
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


def assert_same(
    search: DeviceSearch,
    collection: Collection,
    k: int = 10,
    filters: Sequence[Filter] = (),
    queries: NDArray[np.float32] | None = None,
) -> None:
    """To the bit, in the same order."""
    asked = queries_of(6) if queries is None else queries
    of_device, positions = search.nearest(asked, k, filters)
    similarities, expected = collection.nearest(asked, k, filters, exact=True)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_array_equal(of_device.view(np.uint32), similarities.view(np.uint32))
