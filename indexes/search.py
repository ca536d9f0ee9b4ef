"""The nearest rows of a snapshot: by the ANN index where that pays, else by comparing all rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from indexes.addresses import Addresses, both
from indexes.ann.base import FEWEST_ROWS, AnnIndex
from indexes.exact import nearest
from indexes.filters import Filter, MaskCache
from indexes.manifest import AnnEntry
from indexes.numbering import Mask, Positions, SegmentIndex
from indexes.row_file import read_rows
from indexes.segment import Segment

SHORTLISTED_A_RESULT = 4
LEAST_SHARE = 0.25  # of rows that pass the filters, below which those are compared one by one

Nearest = tuple[NDArray[np.float32], Positions]  # similarities and positions, [q, count] each, best first


class Search:
    """Over the segments of one snapshot. Any number of threads may use it."""

    def __init__(
        self, segments: Sequence[Segment], alive: Sequence[Mask | None], addresses: Addresses, entry: AnnEntry | None
    ) -> None:
        """alive: for each segment the rows that count, None for all of them. entry: of the ANN index, if there is
        one."""
        self._segments = segments
        self._alive = alive
        self._addresses = addresses
        self._entry = entry
        self._masks = MaskCache()

    def exact(self, queries: NDArray[np.float32], count: int, filters: Sequence[Filter] = ()) -> Nearest:
        """The nearest rows of all, see `Collection.nearest`."""
        masks = self._passing(filters) if filters else self._alive
        arrays = [segment.embeddings.mapped for segment in self._segments]
        if len(queries) == 1:
            return nearest(queries, arrays, masks, count)
        from indexes.products import nearest_of_many  # one query does without it

        return nearest_of_many(queries, arrays, masks, count)

    def by_index(
        self, ann: AnnIndex, queries: NDArray[np.float32], count: int, filters: Sequence[Filter], share: float
    ) -> Nearest:
        """The nearest rows by the index, see `Collection.nearest`; of all for a query of whose shortlist too few rows
        are left. queries: at least one. share: see `passing_share`, more than 0.

        Filters apply to the shortlist, which is longer the fewer rows pass. Where they go with content, few rows of it
        may be left: then all rows that pass must be compared."""
        similarities = np.empty((len(queries), count), np.float32)
        positions = np.empty((len(queries), count), np.int64)
        lacking = []
        for index, query in enumerate(queries):
            result = self._nearest_of_one(ann, query, count, filters, share)
            if result is None:
                lacking.append(index)
            else:
                similarities[index], positions[index] = result[0][0], result[1][0]
        if lacking:
            similarities[lacking], positions[lacking] = self.exact(queries[lacking], count, filters)
        return similarities, positions

    def passing_share(self, filters: Sequence[Filter]) -> float:
        """The share of the stored rows, dead ones included, that pass the filters."""
        if not filters:
            return 1.0
        passing = sum(np.count_nonzero(self._masks.mask(segment, filters)) for segment in self._segments)
        return passing / max(self._stored, 1)

    def is_worth_an_index(self, filters: Sequence[Filter], share: float) -> bool:
        """Whether so many rows pass the filters that an index is the faster way. share: see `passing_share`."""
        return not filters or (share >= LEAST_SHARE and share * self._stored > FEWEST_ROWS)

    @cached_property
    def uncovered(self) -> list[tuple[SegmentIndex, Mask | None]]:
        """The segments with rows that no ANN index covers, and the mask of those of them that count, None for all
        rows."""
        last_id = 0 if self._entry is None else self._entry.last_id
        uncovered = []
        for index, (segment, alive) in enumerate(zip(self._segments, self._alive, strict=True)):
            if len(segment) and segment.last_id > last_id:
                is_after = segment.first_id > last_id
                uncovered.append((index, alive if is_after else both(alive, segment.ids > last_id)))
        return uncovered

    def _nearest_of_one(
        self, ann: AnnIndex, query: NDArray[np.float32], count: int, filters: Sequence[Filter], share: float
    ) -> Nearest | None:
        """[1, count]. Scores exactly: of the rows that the index covers its shortlist, and all other rows."""
        assert self._entry is not None
        length = math.ceil(max(self._entry.shortlist, SHORTLISTED_A_RESULT * count) / share)
        shortlist = np.sort(self._addresses.positions(ann.shortlist(query[None], length)[0]))
        shortlist = shortlist[shortlist >= 0]
        if filters:
            shortlist = shortlist[self._pass(shortlist, filters)]
        if len(shortlist) < count:
            return None
        rest = self.uncovered
        if filters:
            rest = [(index, both(mask, self._masks.mask(self._segments[index], filters))) for index, mask in rest]
        files = [segment.embeddings for segment in self._segments]
        arrays = [read_rows(files, *self._addresses.split(shortlist)), *(files[index].mapped for index, _ in rest)]
        similarities, indices = nearest(query[None], arrays, [None, *(mask for _, mask in rest)], count)
        starts = self._addresses.starts
        candidates = [shortlist, *(np.arange(starts[index], starts[index + 1]) for index, _ in rest)]
        positions = np.where(indices < 0, -1, np.concatenate(candidates)[indices])
        order = np.lexsort((positions, -similarities), axis=1)  # equals by position, whichever way they came
        return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(positions, order, axis=1)

    def _passing(self, filters: Sequence[Filter]) -> list[Mask]:
        """For each segment the rows that count and pass."""
        pairs = zip(self._segments, self._alive, strict=True)
        return [both(alive, self._masks.mask(segment, filters)) for segment, alive in pairs]

    @property
    def _stored(self) -> int:
        """How many rows are stored, dead ones included."""
        return int(self._addresses.starts[-1])

    def _pass(self, positions: Positions, filters: Sequence[Filter]) -> Mask:
        """Which rows pass, bool [n]. positions: ascending."""
        starts = self._addresses.starts
        bounds = zip(self._segments, starts, pairwise(np.searchsorted(positions, starts).tolist()), strict=False)
        masks = [
            self._masks.mask(segment, filters)[positions[low:high] - start]
            for segment, start, (low, high) in bounds
            if low < high
        ]
        return np.concatenate([np.zeros(0, np.bool_), *masks])
