"""Where a row of a snapshot is: from ids to positions, and from positions to segments and offsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from indexes.numbering import Mask, Offsets, Positions, RowIds, SegmentIndex, SegmentIndices
from indexes.segment import Segment


@dataclass(frozen=True)
class _Spans:
    """The segments that have rows; of each, int64, the position of its first row, its first id and its last, and
    whether it has all ids between them."""

    segments: list[Segment]
    starts: Positions
    first_ids: RowIds
    last_ids: RowIds
    has_all: Mask


class Addresses:
    """Of the rows of some segments, which never change; see `indexes.numbering` for the kinds of integers."""

    def __init__(self, segments: Sequence[Segment], alive: Sequence[Mask | None]) -> None:
        """alive: for each segment the rows that count, bool [rows], None for all of them."""
        self._segments = segments
        self._alive = alive
        self.starts: Positions = np.cumsum([0, *(len(segment) for segment in segments)], dtype=np.int64)

    def split(self, positions: Sequence[int] | Positions) -> tuple[SegmentIndices, Offsets]:
        """Which segments some rows are in, and where in them, int64 [n] each."""
        array = np.asarray(positions, dtype=np.int64)
        indices = np.searchsorted(self.starts, array, side="right") - 1
        return indices, array - self.starts[indices]

    def positions(self, ids: RowIds) -> Positions:
        """int64 [n], -1 for ids that no row has, or a row that does not count."""
        spans = self._spans
        if not len(spans.segments):
            return np.full(len(ids), -1, np.int64)
        indices = np.searchsorted(spans.first_ids, ids, side="right") - 1  # among the segments that have rows
        offsets = ids - spans.first_ids[indices]
        for index, group in _grouped(np.where(spans.has_all[indices], -1, indices)):
            if index >= 0:
                offsets[group] = spans.segments[index].offsets(ids[group])
        positions = spans.starts[indices] + offsets
        is_alive = ~contains(self.dead, positions)
        return np.where((indices >= 0) & (ids <= spans.last_ids[indices]) & (offsets >= 0) & is_alive, positions, -1)

    @cached_property
    def dead(self) -> Positions:
        """Of the rows that do not count, int64, ascending."""
        masks = [(start, alive) for start, alive in zip(self.starts.tolist(), self._alive, strict=False)]
        dead = [start + np.flatnonzero(~alive) for start, alive in masks if alive is not None]
        return np.concatenate([np.zeros(0, np.int64), *dead])

    @cached_property
    def _spans(self) -> _Spans:
        pairs = zip(self.starts.tolist(), self._segments, strict=False)
        filled = [(start, segment) for start, segment in pairs if len(segment)]
        values = [(start, segment.first_id, segment.last_id, len(segment)) for start, segment in filled]
        starts, first_ids, last_ids, lengths = np.array(values, np.int64).reshape(-1, 4).T
        has_all = last_ids - first_ids + 1 == lengths
        return _Spans([segment for _, segment in filled], starts, first_ids, last_ids, has_all)


def contains(ascending: NDArray[np.int64], values: NDArray[np.int64]) -> Mask:
    """Which of the values are in an array that ascends, bool [n]."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    indices = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[indices] == values)


def both(first: Mask | None, second: Mask) -> Mask:
    """The conjunction of two masks, of which the first may be None, for all rows."""
    return second if first is None else first & second


def alive_in(segment: Segment, tombstones: RowIds) -> Mask | None:
    """Which rows count, None for all of them. tombstones: ids, ascending, that do not count, besides what the segment's
    own deletions say."""
    alive = segment.alive
    if not len(tombstones) or not len(segment):
        return alive
    low, high = np.searchsorted(tombstones, [segment.first_id, segment.last_id + 1])
    if low == high:
        return alive
    dead = np.isin(segment.ids, tombstones[low:high])
    return both(alive, ~dead) if dead.any() else alive


def _grouped(indices: SegmentIndices) -> Iterator[tuple[SegmentIndex, NDArray[np.int64]]]:
    """Every distinct index, ascending, and where it is in the array."""
    order = np.argsort(indices, kind="stable")
    changes = np.flatnonzero(np.diff(indices[order])) + 1
    for low, high in pairwise([0, *changes.tolist(), len(order)]):
        if low < high:
            yield int(indices[order[low]]), order[low:high]
