"""The plan of merges, from counts alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.manifest import PartEntry, SegmentEntry
from indexes.merging import MERGED_ROWS, segments_to_merge

counts = st.lists(st.integers(0, 40_000), max_size=30)


def entries(rows, dead=None, removed=None):
    dead, removed = dead or [0] * len(rows), removed or [0] * len(rows)
    counts = enumerate(zip(rows, dead, removed, strict=True))
    return [SegmentEntry(number, count, 0, gone, revivable) for number, (count, gone, revivable) in counts]


def after(rows, dead=None, everything=False):
    """Row counts once the plan is carried out."""
    dead = dead or [0] * len(rows)
    segments = entries(rows, dead)
    groups = segments_to_merge(segments, everything)
    number = {entry.number: index for index, group in enumerate(groups) for entry in group}
    merged: dict[object, int] = {}
    for entry, gone in zip(segments, dead, strict=True):
        group = number.get(entry.number)
        key = ("kept", entry.number) if group is None else ("merged", group)
        merged[key] = merged.get(key, 0) + entry.rows - (gone if group is not None else 0)
    return list(merged.values())


def test_a_large_segment_is_left_alone_when_little_is_added():
    assert after([10_000, 3]) == [10_000, 3]


def test_equal_small_segments_become_one():
    assert after([10_000, 3, 3]) == [10_000, 6]


@given(counts)
def test_groups_are_neighbours_in_order_and_never_too_large(rows):
    for everything in (False, True):
        groups = segments_to_merge(entries(rows), everything)
        numbers = [[entry.number for entry in group] for group in groups]
        assert all(group == list(range(group[0], group[0] + len(group))) for group in numbers)
        assert all(len(group) == 1 or sum(rows[index] for index in group) <= MERGED_ROWS for group in numbers)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=200))
def test_adding_one_batch_at_a_time_keeps_segments_few_and_copying_cheap(batches):
    segments: list[int] = []
    copied = 0
    for batch in batches:
        merged = after([*segments, batch])
        copied += sum(merged) - sum(count for count in merged if count in segments)
        segments = merged
    total = sum(batches)
    assert len(segments) <= math.log2(total) + 2
    assert copied <= total * (math.log2(total) + 2)


def test_everything_joins_all_and_drops_the_dead():
    assert after([10_000, 3, 20], dead=[1_000, 0, 5], everything=True) == [9_018]


def test_a_mostly_dead_segment_is_rewritten():
    assert after([40_000, 10], dead=[20_000, 0]) == [20_000, 10]


def test_full_segments_are_not_copied_again():
    assert after([60_000, 60_000, 60_000]) == [60_000, 60_000, 60_000]


def test_what_can_be_revived_is_no_reason_to_rewrite_a_segment():
    assert segments_to_merge(entries([40_000, 10], dead=[40_000, 0], removed=[40_000, 0])) == []


def test_everything_drops_what_can_be_revived_too():
    (group,) = segments_to_merge(entries([40_000], dead=[10], removed=[10]), everything=True)
    assert [entry.number for entry in group] == [0]


@pytest.mark.parametrize("everything", [False, True])
def test_a_segment_with_parts_of_a_later_version_is_never_merged(everything):
    segments = entries([5, 5, 5, 5, 5], dead=[4, 4, 4, 4, 4])
    later = {**segments[2].parts, "words": PartEntry("words.parquet")}
    segments[2] = replace(segments[2], parts=later)
    groups = segments_to_merge(segments, everything)
    assert [[entry.number for entry in group] for group in groups] == [[0, 1], [3, 4]]
