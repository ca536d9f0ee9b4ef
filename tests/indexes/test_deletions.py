"""What no longer counts, and what of it can be revived."""

from __future__ import annotations

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.deletions import NONE, parse_deletions
from indexes.errors import DamagedSegmentError
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.contents import removed_rows


def paths(table):
    return table["path"].to_pylist()


def test_more_deletions_keep_the_reasons_of_those_before():
    first = NONE.with_more(np.array([3, 5]), np.array([True, False]))
    second = first.with_more(np.array([1, 3, 9]), np.array([False, False, True]))
    assert second.entries.tolist() == [1, 3, 5, 9]
    assert second.removed.tolist() == [False, True, False, True]


def test_removed_rows_do_not_count_and_can_be_read(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1], removed=[2, 14])
    opened = Collection.open(collection)
    assert len(opened) == 27
    removed = removed_rows(opened, ["id", "path"])
    assert removed["id"].to_pylist() == [2, 14]
    rows = opened.rows(removed["position"].to_numpy())
    assert [row.path for row in rows] == paths(removed)
    assert opened.embeddings(removed["position"].to_numpy()).shape == (2, 8)


def test_removed_rows_outlive_merges_until_optimize(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1], removed=[2, 14])
        for _ in range(20):
            writer.commit(make_batch(writer.manifest.next_id, 3))
        writer.merge()
        assert len(writer.manifest.segments) < 10
        assert removed_rows(writer.collection, ["id"])["id"].to_pylist() == [2, 14]
        assert verify(collection).faults == ()
        writer.merge(everything=True)
        assert len(removed_rows(writer.collection, ["id"])) == 0
        assert sum(entry.dead for entry in writer.manifest.segments) == 0
        assert len(writer.collection) == 87


def test_replaced_rows_are_left_behind_by_a_merge(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=range(1, 11))
        writer.merge()
        stored = sum(entry.rows for entry in writer.manifest.segments)
    assert stored == len(Collection.open(collection)) == 20


def test_failures_of_files_that_have_gone_are_dropped_by_a_merge(collection):
    with CollectionWriter(collection, BINDING) as writer:
        failures = writer.collection.failures()["id"].to_pylist()
        writer.commit(removed=failures[:5])
        assert len(writer.collection.failures()) == 1
        writer.merge()
        assert len(writer.collection.failures()) == 1
        assert writer.manifest.segments[0].removed == 0


def test_the_same_entry_dies_once(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1, 1], removed=[1])
        writer.commit(dead=[1])
        assert writer.manifest.segments[0].dead == 1
        assert len(writer.collection) == 29


def test_a_reader_keeps_the_deletions_of_its_commit(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1])
        before = Collection.open(collection)
        writer.commit(dead=[2])
    CollectionWriter(collection, BINDING).close()  # removes the deletion vector that nothing names any more
    assert len(before) == 29 and len(Collection.open(collection)) == 28
    assert len(list((collection / "segments" / "000001").glob("dead-*.npy"))) == 1


def test_a_dead_row_is_found_by_no_search_and_no_id(collection):
    opened = Collection.open(collection)
    query = opened.embeddings([4]).astype(np.float32)
    row = opened.row(4)
    assert opened.nearest(query, 1)[1][0][0] == 4
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(removed=[row.id])
    opened = Collection.open(collection)
    assert opened.nearest(query, 1)[1][0][0] != 4
    assert opened.positions(np.array([row.id, row.id + 1])).tolist() == [-1, 5]


@pytest.mark.parametrize(
    "pairs",
    [
        np.zeros((2, 3), np.uint32),
        np.array([[1, 0], [1, 0]], np.uint32),
        np.array([[5, 0], [3, 0]], np.uint32),
        np.array([[12, 0]], np.uint32),
        np.array([[1, 0]], np.int64),
        np.array([1.5]),
    ],
    ids=["columns", "twice", "order", "beyond", "type", "floats"],
)
def test_what_is_no_deletion_vector_of_the_segment_is_refused(tmp_path, pairs):
    np.save(tmp_path / "dead.npy", pairs)
    with pytest.raises(DamagedSegmentError, match=r"dead\.npy"):
        parse_deletions(tmp_path, "dead.npy", (tmp_path / "dead.npy").read_bytes(), 12)
