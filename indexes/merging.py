"""Merge segments: which ones, planned from counts alone, and what the merged segment holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.deletions import Deletions
from indexes.manifest import SegmentEntry
from indexes.numbering import Mask
from indexes.row_file import RowFile
from indexes.rows import FAILURE_SCHEMA, ROW_SCHEMA
from indexes.segment import KNOWN_PARTS, Segment
from indexes.segment_files import Batch

MERGED_ROWS = 65_536
DEAD_SHARE = 0.25
COPIED_ROWS = 1024


def segments_to_merge(segments: Sequence[SegmentEntry], everything: bool = False) -> list[list[SegmentEntry]]:
    """Groups of neighbouring segments. Each group becomes one segment of at most `MERGED_ROWS` entries.

    The rule (the logarithmic method: Bentley and Saxe 1980) keeps each segment larger than all newer ones together.
    Then n images make about log2(n) segments, and an image is copied about log2(n) times, however small the additions
    are. A segment is also rewritten when more than a quarter of it was replaced. Rows of files that have gone are kept,
    since they can be revived. With `everything`, all neighbours are joined and everything dead is dropped. Only
    neighbours are merged, so that ids stay ascending. Segments with parts that this version does not know are left
    alone."""
    dropped = [entry.dead if everything else entry.dead - entry.removed for entry in segments]
    kept = [entry.rows + entry.failures - gone for entry, gone in zip(segments, dropped, strict=True)]
    first = 0 if everything else _first_outgrown(kept)
    groups = _packed(range(first, len(segments)), kept)
    groups = [part for group in groups for part in _mergeable(group, segments)]
    chosen = [group for group in groups if len(group) > 1 or (everything and dropped[group[0]])]
    merged = {index for group in chosen for index in group}
    for index, gone in enumerate(dropped):
        outweighs = gone > DEAD_SHARE * (kept[index] + gone)
        if index not in merged and outweighs and can_be_merged(segments[index]):
            chosen.append([index])
    return [[segments[index] for index in group] for group in sorted(chosen)]


def can_be_merged(entry: SegmentEntry) -> bool:
    """Whether all of its parts are known here, so that merging loses none."""
    return set(entry.parts) <= set(KNOWN_PARTS)


def merged_batch(segments: Sequence[Segment], everything: bool) -> Batch:
    """What neighbouring segments hold together, without what was replaced or, with `everything`, what is dead."""
    kept = [_kept(segment, everything) for segment in segments]
    pairs = list(zip(segments, kept, strict=True))
    rows = [segment.table().filter(pa.array(mask[: len(segment)])) for segment, mask in pairs]
    failures = [segment.failures().filter(pa.array(mask[len(segment) :])) for segment, mask in pairs]
    masks = [mask[: len(segment)] for segment, mask in pairs]
    return Batch(
        pa.concat_tables([ROW_SCHEMA.empty_table(), *rows], promote_options="default").combine_chunks(),
        pa.concat_tables([FAILURE_SCHEMA.empty_table(), *failures], promote_options="default").combine_chunks(),
        _blocks([segment.embeddings for segment in segments], masks),
        _blocks([segment.regions for segment in segments], masks),
        None if everything else _removed(segments, kept),
    )


def _kept(segment: Segment, everything: bool) -> Mask:
    """Which entries of a segment go into the merged one, bool [entries], rows first, failures after them."""
    deletions = segment.deletions
    mask = np.ones(len(segment) + segment.entry.failures, np.bool_)
    mask[deletions.entries if everything else deletions.entries[~deletions.removed]] = False
    return mask


def _removed(segments: Sequence[Segment], kept: Sequence[Mask]) -> Deletions:
    """The deletion vector of the merged segment: its rows that are dead already. Dead failures are not kept."""
    dead = []
    for segment, mask in zip(segments, kept, strict=True):
        entries = np.zeros(len(mask), np.bool_)
        entries[segment.deletions.entries[segment.deletions.removed]] = True
        dead.append(entries[: len(segment)][mask[: len(segment)]])
    joined = np.flatnonzero(np.concatenate(dead))
    return Deletions(joined, np.ones(len(joined), np.bool_))


def _blocks(files: Sequence[RowFile], masks: Sequence[Mask]) -> Iterator[NDArray[Any]]:
    for file, mask in zip(files, masks, strict=True):
        low = 0
        for block in file.blocks(COPIED_ROWS):
            yield block[mask[low : low + len(block)]]
            low += len(block)


def _mergeable(group: Sequence[int], segments: Sequence[SegmentEntry]) -> list[list[int]]:
    """The runs of a group that can be merged."""
    runs = groupby(group, key=lambda index: can_be_merged(segments[index]))
    return [list(run) for known, run in runs if known]


def _first_outgrown(kept: Sequence[int]) -> int:
    """The oldest segment that is no larger than all newer ones together; full segments are left alone."""
    newer = sum(kept)
    for index, count in enumerate(kept):
        newer -= count
        if count <= newer and count <= MERGED_ROWS // 2:
            return index
    return len(kept)


def _packed(indices: range, kept: Sequence[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    room = -1
    for index in indices:
        room -= kept[index]
        if room < 0:
            groups.append([])
            room = MERGED_ROWS - kept[index]
        groups[-1].append(index)
    return groups
