"""Filtered searches of a collection with an ANN index: when it is asked, for how many rows, and what they find."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes import search as search_module
from indexes.ann.faiss_index import FaissIndex
from indexes.collection import Collection
from indexes.numbering import RowId, RowIds
from indexes.segment import Segment
from indexes.writer import CollectionWriter
from tests.indexes.ann_collections import (
    BINDING,
    add_ann,
    batch,
    exactly,
    image_embeddings,
    recall,
    text_embeddings,
)
from tests.indexes.contents import ann_entry


@dataclass(frozen=True)
class UpTo:
    """Passes rows with ids up to this one."""

    last_id: RowId

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        return np.asarray(segment.ids <= self.last_id)


@dataclass(frozen=True)
class Unlike:
    """Passes rows whose similarity to a direction is at most `similarity`: a filter that goes with content."""

    direction: tuple[float, ...]
    similarity: float

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        return np.asarray(
            segment.embeddings.mapped.astype(np.float32) @ np.array(self.direction, np.float32) <= self.similarity
        )


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the shortlists that the index was asked for. No collection is too small for it."""
    asked, real = [], FaissIndex.shortlist

    def shortlist(index: FaissIndex, queries: NDArray[np.float32], count: int) -> RowIds:
        asked.append(count)
        return real(index, queries, count)

    monkeypatch.setattr(FaissIndex, "shortlist", shortlist)
    monkeypatch.setattr(search_module, "FEWEST_ROWS", 0)
    return asked


def ids_of(collection: Collection) -> RowIds:
    return np.concatenate([segment.ids for segment in collection.segments])


def unlike(collection: Collection, direction: NDArray[np.float32], share: float) -> tuple[Unlike, NDArray[np.int64]]:
    """The filter that passes this share of the rows, those least similar to a direction; and their positions."""
    embeddings = collection.embeddings(np.arange(len(collection))).astype(np.float32)
    condition = Unlike(tuple(direction.tolist()), float(np.quantile(embeddings @ direction, share)))
    masks = [condition.mask(segment) for segment in collection.segments]
    return condition, np.flatnonzero(np.concatenate(masks))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_filter_that_goes_with_content_costs_no_recall(path: Path, lengths: list[int], share: float) -> None:
    """Each query under the filter that passes what is least like it: the lists that it scans hold nothing of that."""
    collection, queries = Collection.open(path), text_embeddings(40, seed=5)
    unfiltered = recall(collection.nearest(queries, 10)[1], exactly(collection, queries, 10))
    recalls = []
    for query in queries:
        condition, passing = unlike(collection, query, share)
        positions = collection.nearest(query[None], 10, [condition])[1]
        assert np.isin(positions, passing).all()
        recalls.append(recall(positions, exactly(collection, query[None], 10, passing)))
    assert ann_entry(path).nprobe < 64 and len(lengths) == 80  # else it tells nothing of lists that are not scanned
    assert np.mean(recalls) >= unfiltered


@pytest.mark.parametrize(("passing", "is_asked"), [(999, False), (1_000, True), (4_000, True)])
def test_the_index_is_asked_where_a_quarter_of_the_rows_passes(
    path: Path, lengths: list[int], passing: int, is_asked: bool
) -> None:
    collection = Collection.open(path)
    condition = UpTo(int(ids_of(collection)[passing - 1]))
    positions = collection.nearest(text_embeddings(1), 10, [condition])[1]
    assert bool(lengths) == is_asked and positions.max() < passing


@pytest.mark.parametrize(("passing", "is_asked"), [(1_500, False), (1_501, True)])
def test_the_index_is_asked_where_more_rows_pass_than_a_small_collection_has(
    path: Path, lengths: list[int], monkeypatch: pytest.MonkeyPatch, passing: int, is_asked: bool
) -> None:
    monkeypatch.setattr(search_module, "FEWEST_ROWS", 1_500)
    collection = Collection.open(path)
    collection.nearest(text_embeddings(1), 10, [UpTo(int(ids_of(collection)[passing - 1]))])
    assert bool(lengths) == is_asked


@pytest.mark.parametrize("count", [1, 200, 301])
def test_a_shortlist_has_four_rows_a_result_and_more_where_fewer_rows_pass(
    path: Path, lengths: list[int], count: int
) -> None:
    """Dead rows are in the shortlist, so that they count among those that pass."""
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=range(1, 500, 3))
    collection, query = Collection.open(path), text_embeddings(1)
    for passing in (4_000, 3_000, 1_300):
        collection.nearest(query, count, [UpTo(int(ids_of(collection)[passing - 1]))])
    collection.nearest(query, count)
    length = max(ann_entry(path).shortlist, 4 * count)
    assert lengths == [length, math.ceil(length / 0.75), math.ceil(length / 0.325), length]


def test_dead_rows_that_pass_are_not_returned(path: Path, lengths: list[int]) -> None:
    before, queries = Collection.open(path), text_embeddings(30, seed=5)
    ids, condition = ids_of(before), UpTo(2_600)
    dead = before.nearest(queries, 5, [condition])[1]
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=ids[dead.ravel()].tolist())
    collection = Collection.open(path)
    passing = np.setdiff1d(np.flatnonzero(ids <= 2_600), dead)
    positions = collection.nearest(queries, 10, [condition])[1]
    assert np.isin(positions, passing).all() and len(lengths) == 60
    assert recall(positions, exactly(collection, queries, 10, passing)) > 0.85


@pytest.mark.parametrize("uncovered", [1, 4])
@pytest.mark.parametrize("merged", ["nothing", "the last covered row", "everything"])
def test_the_last_covered_row_and_the_first_uncovered_one_are_found_once(
    path: Path, lengths: list[int], merged: str, uncovered: int
) -> None:
    """The segment that begins with the last covered row comes of a merge of the two smallest segments."""
    embeddings = image_embeddings(1 + uncovered, seed=21)
    with CollectionWriter(path, BINDING) as writer:
        writer.merge(everything=True)
        writer.commit(batch(writer.next_id, embeddings[:1]))
    add_ann(path)
    last_id = ann_entry(path).last_id
    with CollectionWriter(path, BINDING) as writer:
        assert writer.next_id == last_id + 1
        writer.commit(batch(writer.next_id, embeddings[1:]))
        if merged != "nothing":
            writer.merge(everything=merged == "everything")
    collection = Collection.open(path)
    firsts = [segment.first_id for segment in collection.segments]
    assert (last_id in firsts, last_id + 1 in firsts) == {
        "nothing": (True, True),
        "the last covered row": (True, False),
        "everything": (False, False),
    }[merged]
    queries = embeddings[:2].astype(np.float32)
    for filters in ((), (UpTo(last_id + 1),)):
        positions = collection.nearest(queries, 20, filters)[1]
        assert positions[:, 0].tolist() == [4_000, 4_001]
        assert all(len(set(row)) == 20 for row in positions.tolist())
    before, after = (collection.nearest(queries, 20, [UpTo(last_id + more)])[1] for more in (0, 1))
    assert 4_001 not in before and 4_001 in after and len(lengths) == 8
