"""Which segments to merge: a plan made from counts alone."""

from __future__ import annotations

from collections.abc import Sequence

from indexes.manifest import SegmentEntry

MERGED_ROWS = 65_536
DEAD_SHARE = 0.25


def segments_to_merge(
    segments: Sequence[SegmentEntry], dead: Sequence[int], everything: bool = False
) -> list[list[SegmentEntry]]:
    """Groups of neighbouring segments, each to become one of at most `MERGED_ROWS` living entries.

    dead: entries of each segment that no longer count. The rule (the logarithmic method: Bentley and Saxe 1980) keeps
    each segment larger than all newer ones together, so that n images make about log2(n) segments, and an image is
    copied about log2(n) times however small the additions are. Segments that are more than a quarter dead are
    rewritten too. With `everything`, all neighbours are joined and everything dead is dropped. Only neighbours are
    merged, so that ids stay ascending."""
    living = [entry.rows + entry.failures - gone for entry, gone in zip(segments, dead, strict=True)]
    first = 0 if everything else _first_outgrown(living)
    groups = _packed(range(first, len(segments)), living)
    chosen = [group for group in groups if len(group) > 1 or (everything and dead[group[0]])]
    merged = {index for group in chosen for index in group}
    for index, gone in enumerate(dead):
        if index not in merged and gone > DEAD_SHARE * (living[index] + gone):
            chosen.append([index])
    return [[segments[index] for index in group] for group in sorted(chosen)]


def _first_outgrown(living: Sequence[int]) -> int:
    """The oldest segment that is no larger than all newer ones together; full segments are left alone."""
    newer = sum(living)
    for index, count in enumerate(living):
        newer -= count
        if count <= newer and count <= MERGED_ROWS // 2:
            return index
    return len(living)


def _packed(indices: range, living: Sequence[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    room = -1
    for index in indices:
        room -= living[index]
        if room < 0:
            groups.append([])
            room = MERGED_ROWS - living[index]
        groups[-1].append(index)
    return groups
