"""Which items are relevant to which query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Relevance:
    """The relevant items of query i are `items[starts[i]:starts[i + 1]]`: rows of the item array.

    starts: int64 [queries + 1]. items: int64 [total]. Raises `ValueError` for a query without a relevant item, for
    which no measure is defined, and for one that names an item twice."""

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
        """From one list of relevant items per query. Raises what the class does."""
        arrays = [np.asarray(items, dtype=np.int64) for items in lists]
        starts = np.cumsum([0, *(len(items) for items in arrays)], dtype=np.int64)
        return cls(starts, np.concatenate([np.empty(0, np.int64), *arrays]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, query: int) -> NDArray[np.int64]:
        return self.items[self.starts[query] : self.starts[query + 1]]

    def query_of_item(self) -> NDArray[np.int64]:
        """int64 [total]: the query to which the item at the same place of `items` is relevant."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.starts))


def caption_relevance(image_of_caption: ArrayLike) -> tuple[Relevance, Relevance]:
    """The relevance in both directions: (text to image, image to text).

    image_of_caption: int [captions], the row of the image that a caption describes. Raises `ValueError` unless every
    image from 0 to the last has a caption."""
    images = np.asarray(image_of_caption, dtype=np.int64)
    to_image = Relevance(np.arange(len(images) + 1, dtype=np.int64), images)
    starts = np.concatenate([[0], np.cumsum(np.bincount(images))]).astype(np.int64)
    return to_image, Relevance(starts, np.argsort(images, kind="stable").astype(np.int64))
