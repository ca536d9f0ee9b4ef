"""Collections with an ANN index against comparing with every row."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from indexes import search as search_module
from indexes.ann.building import extend_ann
from indexes.ann.faiss_index import FaissIndex
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.filters import InFolder
from indexes.paths import ann_folder
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter
from tests.indexes.ann_collections import (
    BINDING,
    DIM,
    TARGET,
    add_ann,
    batch,
    exactly,
    image_embeddings,
    recall,
    source_of,
    text_embeddings,
    unit_norm,
)
from tests.indexes.contents import ann_entry


def test_it_finds_the_share_that_it_was_asked_for_of_texts_it_has_not_seen(path):
    collection, queries = Collection.open(path), text_embeddings(200, seed=5)
    entry = ann_entry(path)
    assert entry.recall >= TARGET - 0.03 and entry.rows == 4_000 and entry.milliseconds > 0
    similarities, positions = collection.nearest(queries, 10)
    expected = exactly(collection, queries, 10)
    assert TARGET - 0.03 <= recall(positions, expected) < 1  # else it tells nothing of the approximate way
    images = collection.embeddings(positions.ravel()).astype(np.float32).reshape(200, 10, DIM)
    np.testing.assert_allclose(similarities, np.einsum("qd,qkd->qk", queries, images), atol=1e-6)
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_more_is_found_where_more_is_asked_for(path):
    add_ann(path, target=0.7)
    before = ann_entry(path)
    assert before.recall < 0.95  # so that there is more to be found
    add_ann(path, target=1.0)
    after = ann_entry(path)
    assert after.recall > before.recall
    assert (after.nprobe, after.shortlist) >= (before.nprobe, before.shortlist)


def test_the_measured_recall_is_that_of_the_index_alone(path):
    """Half of the texts tune, the others measure."""
    collection, texts = Collection.open(path), text_embeddings(200)[1::2]
    entry = ann_entry(path)
    index = collection.open_ann()
    assert index is not None
    ids = index.shortlist(texts, entry.shortlist)
    expected = exactly(collection, texts, 10)
    positions = np.stack([collection.positions(row) for row in ids])
    assert entry.recall == pytest.approx(recall(positions, expected))


def test_rows_that_came_later_are_found_exactly(path):
    queries = text_embeddings(50, seed=9)
    with CollectionWriter(path, BINDING) as writer:
        for low in (0, 30):  # two segments; the texts themselves, than which nothing is nearer
            writer.commit(batch(writer.manifest.next_id, queries[low : low + 30 - low // 3].astype(np.float16)))
    collection = Collection.open(path)
    similarities, positions = collection.nearest(queries, 10)
    np.testing.assert_array_equal(positions[:, 0], 4_000 + np.arange(50))
    np.testing.assert_allclose(similarities[:, 0], 1, atol=1e-3)
    new = np.isin(exactly(collection, queries, 10), 4_000 + np.arange(50))
    assert (np.isin(positions, 4_000 + np.arange(50)).sum(axis=1) >= new.sum(axis=1)).all()


def test_merging_leaves_the_index_in_force(path):
    queries = text_embeddings(50, seed=5)
    before = Collection.open(path)
    ids = before.table(["id"])["id"].to_numpy()[before.nearest(queries, 10)[1]]
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, image_embeddings(30, seed=3) * np.float16(0.01)))
        writer.merge(everything=True)
    after = Collection.open(path)
    assert len(after.segments) == 1 and after.ann is not None
    np.testing.assert_array_equal(after.table(["id"])["id"].to_numpy()[after.nearest(queries, 10)[1]], ids)
    new = unit_norm(queries[:1]).astype(np.float16)
    with CollectionWriter(path, BINDING) as writer:  # joined with rows that the index covers
        writer.commit(batch(writer.manifest.next_id, new))
        writer.merge(everything=True)
    assert Collection.open(path).nearest(queries[:1], 1)[1][0, 0] == 4_030


def test_dead_rows_are_not_found(path):
    queries = text_embeddings(20, seed=5)
    before = Collection.open(path)
    nearest = before.nearest(queries, 3)[1]
    dead = before.table(["id"])["id"].to_numpy()[nearest.ravel()].tolist()
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=dead)
    collection = Collection.open(path)
    _, positions = collection.nearest(queries, 10)
    assert not set(positions.ravel().tolist()) & set(nearest.ravel().tolist()) and (positions >= 0).all()
    assert recall(positions, exactly(collection, queries, 10)) > TARGET - 0.05


@pytest.mark.parametrize("fewest_rows", [0, 10_000])
def test_only_images_in_a_folder(path, monkeypatch, fewest_rows):
    monkeypatch.setattr(search_module, "FEWEST_ROWS", fewest_rows)
    collection, queries = Collection.open(path), text_embeddings(30, seed=5)
    table = collection.table(["path"])
    inside = [row["position"] for row in table.to_pylist() if row["path"].startswith(b"/odd/")]
    _, positions = collection.nearest(queries, 10, [InFolder((b"/odd",))])
    assert set(positions.ravel().tolist()) <= set(inside)
    expected = exactly(collection, queries, 10, np.array(inside))
    assert recall(positions, expected) > TARGET - 0.05
    if fewest_rows:
        np.testing.assert_array_equal(positions, expected)


def test_where_the_shortlist_is_too_short_all_rows_are_compared(path):
    collection, queries = Collection.open(path), text_embeddings(3, seed=5)
    _, positions = collection.nearest(queries, 4_000)
    assert recall(positions, exactly(collection, queries, 4_000)) == 1
    assert (collection.nearest(queries, 5_000)[1][:, 4_000:] == -1).all()


def test_an_extended_index_finds_old_and_new(path, tmp_path):
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, image_embeddings(500, seed=4)))
        old = ann_entry(path)
        source = source_of(writer.collection, text_embeddings(100, seed=6))
        writer.put_ann(lambda file: extend_ann(ann_folder(path) / old.file_name, old, source, file))
    collection, queries = Collection.open(path), text_embeddings(100, seed=7)
    entry = ann_entry(path)
    assert (entry.rows, entry.number, entry.nprobe) == (4_500, 2, old.nprobe)
    assert entry.last_id == collection.segments[-1].ids[-1] and entry.recall > TARGET - 0.05
    assert recall(collection.nearest(queries, 10)[1], exactly(collection, queries, 10)) > TARGET - 0.05
    assert [file.name for file in ann_folder(path).iterdir()] == [entry.file_name], "the old file is gone"


def test_a_damaged_or_missing_file_means_exact_search(path):
    file = ann_folder(path) / ann_entry(path).file_name
    queries = text_embeddings(5, seed=5)
    file.write_bytes(file.read_bytes()[:-1])
    collection = Collection.open(path)
    assert collection.ann is None
    np.testing.assert_array_equal(collection.nearest(queries, 10)[1], exactly(collection, queries, 10))
    with pytest.raises(CrosslookError, match="cannot be used .it has .* bytes, expected .*search optimize"):
        collection.open_ann()
    file.write_bytes(b"x" * ann_entry(path).bytes)
    with pytest.raises(CrosslookError, match="not an index of FAISS"):
        Collection.open(path).open_ann()
    file.unlink()
    with pytest.raises(CrosslookError, match="it is missing"):
        Collection.open(path).open_ann()


def test_a_reader_keeps_its_index_while_a_writer_replaces_it(path):
    reader, queries = Collection.open(path), text_embeddings(5, seed=5)
    expected = Collection.open(path).nearest(queries, 10)[1]
    add_ann(path, target=1.0)
    assert isinstance(reader.ann, FaissIndex) and reader.ann.entry.number == 1
    np.testing.assert_array_equal(reader.nearest(queries, 10)[1], expected)


def test_a_part_of_the_images_is_found_as_well_as_all(path, monkeypatch):
    """Images in a folder that has three of ten."""
    embeddings = image_embeddings(4_000, seed=11)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=range(1, writer.manifest.next_id))
        rows = batch(writer.manifest.next_id, embeddings)
        paths = [f"/{'in' if index % 10 < 3 else 'out'}/{index}.jpg".encode() for index in range(4_000)]
        table = rows.rows.set_column(1, rows.rows.schema.field(1), pa.array(paths, pa.binary()))
        writer.commit(Batch(table, rows.failures, rows.embeddings, rows.regions))
        writer.merge(everything=True)
    add_ann(path)
    collection, queries = Collection.open(path), text_embeddings(200, seed=5)
    inside = np.flatnonzero(np.arange(4_000) % 10 < 3)
    monkeypatch.setattr(search_module, "FEWEST_ROWS", 0)
    positions = collection.nearest(queries, 10, [InFolder((b"/in",))])[1]
    assert recall(positions, exactly(collection, queries, 10, inside)) > TARGET - 0.05


def test_a_filter_holds_for_rows_that_are_covered_came_later_or_died(path, monkeypatch):
    monkeypatch.setattr(search_module, "FEWEST_ROWS", 0)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id + 5, image_embeddings(301, seed=8)), dead=range(1, 900, 5))
        writer.merge(everything=True)
        writer.commit(batch(writer.manifest.next_id, image_embeddings(200, seed=9)))
        writer.commit(removed=range(1_000, 4_300, 11))
    collection, queries = Collection.open(path), text_embeddings(60, seed=5)
    table = collection.table(["path"]).to_pylist()
    inside = np.array([row["position"] for row in table if row["path"].startswith(b"/odd/")])
    positions = collection.nearest(queries, 10, [InFolder((b"/odd",))])[1]
    assert np.isin(positions, inside).all()
    assert recall(positions, exactly(collection, queries, 10, inside)) > TARGET - 0.05
    exact = collection.nearest(queries, 10, [InFolder((b"/odd",))], exact=True)[1]
    np.testing.assert_array_equal(exact, exactly(collection, queries, 10, inside))
    assert (exact != positions).any()  # else the index was not asked


def test_equal_images_come_by_position(path):
    twin = image_embeddings(1, seed=3)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, np.repeat(twin, 8, axis=0)))
    add_ann(path)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, np.repeat(twin, 3, axis=0)))
    positions = Collection.open(path).nearest(twin.astype(np.float32), 11)[1][0]
    np.testing.assert_array_equal(positions, 4_000 + np.arange(11))


def test_no_queries_find_nothing(path):
    similarities, positions = Collection.open(path).nearest(np.zeros((0, DIM), np.float32), 7)
    assert similarities.shape == positions.shape == (0, 7)


def test_rows_that_no_index_covers_are_counted_also_after_merging(path):
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, image_embeddings(10, seed=3)))
        assert writer.collection.uncovered == 10
        writer.merge(everything=True)
        assert writer.collection.uncovered == 10


def test_a_failed_write_leaves_the_index_before_in_force(path, monkeypatch):
    before = ann_entry(path)

    def fail(file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with CollectionWriter(path, BINDING) as writer:
        with pytest.raises(CrosslookError, match="disk is full"):
            writer.put_ann(fail)
        with pytest.raises(CrosslookError, match="run again"):
            writer.put_ann(fail)
    assert ann_entry(path) == before
    assert [file.name for file in ann_folder(path).iterdir()] == [before.file_name]


def test_a_file_that_nothing_names_is_removed_by_the_next_writer(path):
    (ann_folder(path) / "000009.faiss").write_bytes(b"left by a crash")
    with CollectionWriter(path, BINDING):
        pass
    assert [file.name for file in ann_folder(path).iterdir()] == ["000001.faiss"]


def test_a_dropped_index_is_gone(path):
    with CollectionWriter(path, BINDING) as writer:
        writer.drop_ann()
    assert Collection.open(path).ann is None and not os.listdir(ann_folder(path))


def test_a_folder_of_other_indexes_is_no_collection(tmp_path):
    (tmp_path / "c" / "ann").mkdir(parents=True)
    (tmp_path / "c" / "ann" / "mine.faiss").touch()
    with pytest.raises(CrosslookError, match=r"not a collection and not empty \(it holds ann/mine.faiss\)"):
        CollectionWriter(tmp_path / "c", BINDING)


def test_a_kill_at_any_moment_leaves_one_of_both_indexes_whole(tmp_path):
    script = Path(__file__).with_name("kill_while_putting_ann.py")
    run = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[0]) > 8, "moments at which the run was killed"


def test_a_search_maps_no_rows(path):
    """Pages that are mapped stay in the process, until every row of the collection is there."""
    collection = Collection.open(path)
    positions = collection.nearest(text_embeddings(1), 20)[1][0]
    collection.regions(positions)
    files = [file for segment in collection.segments for file in (segment.embeddings, segment.regions)]
    assert not any(file.is_mapped for file in files)
    collection.nearest(text_embeddings(1), 20, exact=True)
    assert all(segment.embeddings.is_mapped for segment in collection.segments)
