"""Which items answer which query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Relevance:
    """The relevant items of query i are `items[starts[i]:starts[i + 1]]`: rows of the item array.

    starts: int64 [queries + 1]. items: int64 [total]. Every query has at least one, and none twice; otherwise
    `ValueError`, since no measure is defined for a query without an answer."""

    starts: NDArray[np.int64]
    items: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.starts) == 0 or self.starts[0] != 0 or self.starts[-1] != len(self.items):
            raise ValueError("starts must run from 0 to the number of items")
        counts = np.diff(self.starts)
        if np.any(counts < 1):
            raise ValueError(f"query {int(np.argmax(counts < 1))} has no relevant item")
        if np.any(self.items < 0):
            raise ValueError("items are row numbers, from 0")
        queries = self.query_of_item()
        order = np.lexsort((self.items, queries))
        twice = (np.diff(self.items[order]) == 0) & (np.diff(queries[order]) == 0)
        if np.any(twice):
            raise ValueError(f"query {int(queries[order][:-1][twice][0])} names a relevant item twice")

    @classmethod
    def from_lists(cls, lists: Iterable[ArrayLike]) -> Relevance:
        """One list of relevant items for each query."""
        arrays = [np.asarray(items, dtype=np.int64) for items in lists]
        starts = np.cumsum([0, *(len(items) for items in arrays)], dtype=np.int64)
        return cls(starts, np.concatenate([np.empty(0, np.int64), *arrays]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, query: int) -> NDArray[np.int64]:
        return self.items[self.starts[query] : self.starts[query + 1]]

    def query_of_item(self) -> NDArray[np.int64]:
        """int64 [total]: the query that each of `items` belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.starts))


def caption_relevance(image_of_caption: ArrayLike) -> tuple[Relevance, Relevance]:
    """(text to image, image to text) from the row of the image that each caption describes, int [captions].

    Every image from 0 to the last needs a caption, otherwise `ValueError`."""
    images = np.asarray(image_of_caption, dtype=np.int64)
    to_image = Relevance(np.arange(len(images) + 1, dtype=np.int64), images)
    starts = np.concatenate([[0], np.cumsum(np.bincount(images))]).astype(np.int64)
    return to_image, Relevance(starts, np.argsort(images, kind="stable").astype(np.int64))
