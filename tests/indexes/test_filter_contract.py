"""What every filter keeps to. A new one is added to the fixture `condition`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.filters import Filter, InFolder
from indexes.segment import Segment
from indexes.writer import CollectionWriter


@dataclass(frozen=True)
class EvenIds:
    """The simplest filter that there is."""

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        return np.asarray(segment.ids % 2 == 0)


@pytest.fixture(
    params=[EvenIds(), InFolder(()), InFolder((b"/",)), InFolder((b"/photos",)), InFolder((b"/photos/7.jpg", b"/x"))],
    ids=repr,
)
def condition(request: pytest.FixtureRequest) -> Filter:
    chosen: Filter = request.param
    return chosen


def test_a_mask_has_a_truth_value_for_each_row_and_is_always_the_same(collection: Path, condition: Filter) -> None:
    for segment in Collection.open(collection).segments:
        mask = condition.mask(segment)
        assert mask.dtype == np.bool_ and mask.shape == (len(segment),)
        np.testing.assert_array_equal(condition.mask(segment), mask)


def test_a_mask_knows_nothing_of_deletions(collection: Path, condition: Filter) -> None:
    before = [condition.mask(segment) for segment in Collection.open(collection).segments]
    with CollectionWriter(collection, Collection.open(collection).binding) as writer:
        writer.commit(dead=[2, 3, 12])
    for mask, segment in zip(before, Collection.open(collection).segments, strict=True):
        np.testing.assert_array_equal(condition.mask(segment), mask)


def test_it_is_a_value_that_can_be_a_key(condition: Filter) -> None:
    assert {condition: 1}[condition] == 1 and hash(condition) == hash(condition)


def test_a_search_under_it_is_the_search_without_it_less_what_does_not_pass(
    collection: Path, condition: Filter
) -> None:
    opened, query = Collection.open(collection), np.ones((1, 8), np.float32)
    similarities, positions = opened.nearest(query, 30)
    passing = np.concatenate([condition.mask(segment) for segment in opened.segments])[positions[0]]
    filtered = opened.nearest(query, 30, [condition])
    rest = 30 - passing.sum()
    np.testing.assert_array_equal(filtered[1][0], np.r_[positions[0][passing], np.full(rest, -1)])
    np.testing.assert_array_equal(filtered[0][0], np.r_[similarities[0][passing], np.full(rest, -np.inf)])
