"""ANN search against comparing with every row."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from indexes import collection as collection_module
from indexes.ann import Ann, Rows, Source, build_ann, extend_ann, lists_for
from indexes.collection import Collection, ann_folder
from indexes.errors import CrosslookError
from indexes.manifest import Binding
from indexes.rows import Row, failures_table, rows_table
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter
from retrieval.encoders.base import unit_norm

DIM = 30  # no multiple of four
BINDING = Binding("fake", "f" * 16, DIM, (1, 1), "int8")
TARGET = 0.9


def places(count, seed):
    """Points around the same forty centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, DIM))
    return centres[rng.integers(40, size=count)] + 0.5 * rng.normal(size=(count, DIM))


def image_embeddings(count, seed=0):
    return unit_norm(places(count, seed)).astype(np.float16)


def text_embeddings(count, seed=1):
    """In another region: all moved the same way."""
    return unit_norm(places(count, seed) + 3 * np.eye(DIM)[0]).astype(np.float32)


def batch(first_id, embeddings, failures=()):
    rows = [
        Row(
            first_id + index,
            f"/{'even' if index % 2 == 0 else 'odd'}/{first_id + index}.jpg".encode(),
            1,
            1,
            bytes(16),
            4,
            3,
            None,
        )
        for index in range(len(embeddings))
    ]
    return Batch(rows_table(rows), failures_table(failures), [embeddings], [np.zeros((len(rows), 1, 1), np.int8)])


def source_of(collection, texts):
    parts = [Rows(segment.ids, segment.embeddings.mapped) for segment in collection.segments]
    return Source(parts, lambda ids: collection.embeddings(collection.positions(ids)), texts)


def add_ann(path, target=TARGET, texts=200):
    with CollectionWriter(path, BINDING) as writer:
        writer.put_ann(lambda file: build_ann(source_of(writer.collection, text_embeddings(texts)), target, file))


def test_codes_tell_apart_rows_that_lie_close_together(tmp_path):
    rng = np.random.default_rng(5)
    centres = unit_norm(np.random.default_rng(99).normal(size=(40, DIM)))
    which = rng.integers(40, size=6000)
    rows = unit_norm(centres[which] + 0.03 * rng.normal(size=(6000, DIM))).astype(np.float16)
    texts = unit_norm(centres[:30] + 0.1 * rng.normal(size=(30, DIM))).astype(np.float32)
    source = Source([Rows(np.arange(1, 6001), rows)], lambda ids: rows[ids - 1], texts)
    entry = build_ann(source, TARGET, tmp_path / "ann")
    with (tmp_path / "ann").open("rb") as file:
        found = Ann(file, replace(entry, probes=lists_for(6000))).shortlist(texts, 50)
    exact = np.argsort(-(texts @ rows.astype(np.float32).T), axis=1)[:, :10] + 1
    shares = [len(set(some) & set(right)) / 10 for some, right in zip(found.tolist(), exact.tolist(), strict=True)]
    assert np.mean(shares) > 0.9, "of 150 in a cluster; codes of whole rows find 0.55"


@pytest.fixture
def path(tmp_path):
    """4,000 rows in three segments, with gaps between their ids."""
    embeddings = image_embeddings(4_000)
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        for low, high in ((0, 2_000), (2_000, 3_500), (3_500, 4_000)):
            writer.commit(batch(writer.manifest.next_id + 7, embeddings[low:high]))
    add_ann(tmp_path / "c")
    return tmp_path / "c"


def exactly(collection, queries, k, alive=None):
    """Positions of the k nearest by one matrix product."""
    positions = collection.table(["path"])["position"].to_numpy() if alive is None else alive
    similarities = queries @ collection.embeddings(positions).astype(np.float32).T
    return positions[np.argsort(-similarities, axis=1, kind="stable")[:, :k]]


def share_found(found, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)])


def test_it_finds_the_share_that_it_was_asked_for_of_texts_it_has_not_seen(path):
    collection, queries = Collection.open(path), text_embeddings(200, seed=5)
    entry = collection.manifest.ann
    assert entry.recall >= TARGET - 0.03 and entry.rows == 4_000 and entry.milliseconds > 0
    similarities, positions = collection.nearest(queries, 10)
    expected = exactly(collection, queries, 10)
    assert TARGET - 0.03 <= share_found(positions, expected) < 1 or entry.recall == 1
    own = np.einsum(
        "qd,qkd->qk", queries, collection.embeddings(positions.ravel()).astype(np.float32).reshape(200, 10, DIM)
    )
    np.testing.assert_allclose(similarities, own, atol=1e-6)
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_more_is_found_where_more_is_asked_for(path):
    few = Collection.open(path).manifest.ann
    add_ann(path, target=1.0)
    all_of_them = Collection.open(path).manifest.ann
    assert all_of_them.recall > few.recall or few.recall == 1.0
    assert (all_of_them.probes, all_of_them.shortlist) >= (few.probes, few.shortlist)


def test_the_measured_recall_is_that_of_the_index_alone(path):
    """Half of the texts tune, the others measure."""
    collection, texts = Collection.open(path), text_embeddings(200)[1::2]
    entry = collection.manifest.ann
    ids = collection.open_ann().shortlist(texts, entry.shortlist)
    expected = exactly(collection, texts, 10)
    found = np.mean(
        [len(set(collection.positions(a).tolist()) & set(b)) / 10 for a, b in zip(ids, expected.tolist(), strict=True)]
    )
    assert entry.recall == pytest.approx(found)


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
    found = Collection.open(path).nearest(queries[:1], 1)[1][0, 0]
    assert found == 4_030


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
    assert share_found(positions, exactly(collection, queries, 10)) > TARGET - 0.05


@pytest.mark.parametrize("few", [0, 10_000])
def test_only_images_in_a_folder(path, monkeypatch, few):
    monkeypatch.setattr(collection_module, "FEWEST_ROWS", few)
    collection, queries = Collection.open(path), text_embeddings(30, seed=5)
    table = collection.table(["path"])
    inside = [row["position"] for row in table.to_pylist() if row["path"].startswith(b"/odd/")]
    _, positions = collection.nearest(queries, 10, [b"/odd"])
    assert set(positions.ravel().tolist()) <= set(inside)
    expected = exactly(collection, queries, 10, np.array(inside))
    assert share_found(positions, expected) > TARGET - 0.05
    if few:
        np.testing.assert_array_equal(positions, expected)


def test_where_the_shortlist_is_too_short_all_rows_are_compared(path):
    collection, queries = Collection.open(path), text_embeddings(3, seed=5)
    _, positions = collection.nearest(queries, 4_000)
    assert share_found(positions, exactly(collection, queries, 4_000)) == 1
    assert (collection.nearest(queries, 5_000)[1][:, 4_000:] == -1).all()


def test_an_extended_index_finds_old_and_new(path, tmp_path):
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, image_embeddings(500, seed=4)))
        old = writer.manifest.ann
        source = source_of(writer.collection, text_embeddings(100, seed=6))
        writer.put_ann(lambda file: extend_ann(ann_folder(path) / old.file_name, old, source, file))
    collection, queries = Collection.open(path), text_embeddings(100, seed=7)
    entry = collection.manifest.ann
    assert (entry.rows, entry.number, entry.probes) == (4_500, 2, old.probes)
    assert entry.last_id == collection.segments[-1].ids[-1] and entry.recall > TARGET - 0.05
    assert share_found(collection.nearest(queries, 10)[1], exactly(collection, queries, 10)) > TARGET - 0.05
    assert [each.name for each in ann_folder(path).iterdir()] == [entry.file_name], "the old file is gone"


def test_a_damaged_or_missing_file_means_exact_search(path):
    file = ann_folder(path) / Collection.open(path).manifest.ann.file_name
    queries = text_embeddings(5, seed=5)
    file.write_bytes(file.read_bytes()[:-1])
    collection = Collection.open(path)
    assert collection.ann is None
    np.testing.assert_array_equal(collection.nearest(queries, 10)[1], exactly(collection, queries, 10))
    with pytest.raises(CrosslookError, match="cannot be used .it has .* bytes, expected .*search optimize"):
        collection.open_ann()
    file.write_bytes(b"x" * collection.manifest.ann.bytes)
    with pytest.raises(CrosslookError, match="not an index of FAISS"):
        Collection.open(path).open_ann()
    file.unlink()
    with pytest.raises(CrosslookError, match="it is missing"):
        Collection.open(path).open_ann()


def test_a_reader_keeps_its_index_while_a_writer_replaces_it(path):
    reader, queries = Collection.open(path), text_embeddings(5, seed=5)
    expected = Collection.open(path).nearest(queries, 10)[1]
    add_ann(path, target=1.0)
    assert reader.ann is not None and reader.ann.entry.number == 1
    np.testing.assert_array_equal(reader.nearest(queries, 10)[1], expected)


def test_a_part_of_the_images_is_found_as_well_as_all(path):
    """Images in a folder that has three of ten: the shortlist is as much longer."""
    embeddings = image_embeddings(4_000, seed=11)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=range(1, writer.manifest.next_id))
        rows = batch(writer.manifest.next_id, embeddings)
        paths = [f"/{'in' if index % 10 < 3 else 'out'}/{index}.jpg".encode() for index in range(4_000)]
        table = rows.rows.set_column(1, rows.rows.schema.field(1), pa.array(paths, pa.binary()))
        writer.commit(Batch(table, rows.failures, rows.embeddings, rows.tokens))
        writer.merge(everything=True)
    add_ann(path)
    collection, queries = Collection.open(path), text_embeddings(200, seed=5)
    inside = np.flatnonzero(np.arange(4_000) % 10 < 3)
    found = collection.nearest(queries, 10, [b"/in"])[1]
    assert share_found(found, exactly(collection, queries, 10, inside)) > TARGET - 0.05


def test_equal_images_come_by_position(path):
    twin = image_embeddings(1, seed=3)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, np.repeat(twin, 8, axis=0)))
    add_ann(path)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, np.repeat(twin, 3, axis=0)))
    found = Collection.open(path).nearest(twin.astype(np.float32), 11)[1][0]
    np.testing.assert_array_equal(found, 4_000 + np.arange(11))


def test_no_queries_find_nothing(path):
    similarities, positions = Collection.open(path).nearest(np.zeros((0, DIM), np.float32), 7)
    assert similarities.shape == positions.shape == (0, 7)


def test_rows_that_no_index_covers_are_counted_also_after_merging(path):
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, image_embeddings(10, seed=3)))
        assert writer.collection.uncovered == 10
        writer.merge(everything=True)
        assert writer.collection.uncovered == 10


def test_an_index_that_cannot_be_written_is_one_line(path):
    with pytest.raises(CrosslookError, match="cannot write .*is the disk full"):
        build_ann(source_of(Collection.open(path), text_embeddings(20)), TARGET, path / "no folder" / "x.faiss")


def test_a_failed_write_leaves_the_index_before_in_force(path, monkeypatch):
    before = Collection.open(path).manifest.ann

    def fail(file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with CollectionWriter(path, BINDING) as writer:
        with pytest.raises(CrosslookError, match="disk is full"):
            writer.put_ann(fail)
        with pytest.raises(CrosslookError, match="run again"):
            writer.put_ann(fail)
    assert Collection.open(path).manifest.ann == before
    assert [each.name for each in ann_folder(path).iterdir()] == [before.file_name]


def test_a_file_that_nothing_names_is_removed_by_the_next_writer(path):
    (ann_folder(path) / "000009.faiss").write_bytes(b"left by a crash")
    with CollectionWriter(path, BINDING):
        pass
    assert [each.name for each in ann_folder(path).iterdir()] == ["000001.faiss"]


def test_a_dropped_index_is_gone(path):
    with CollectionWriter(path, BINDING) as writer:
        writer.drop_ann()
    assert Collection.open(path).ann is None and not os.listdir(ann_folder(path))


def test_a_folder_of_other_indexes_is_no_collection(tmp_path):
    (tmp_path / "c" / "ann").mkdir(parents=True)
    (tmp_path / "c" / "ann" / "mine.faiss").touch()
    with pytest.raises(CrosslookError, match=r"not a collection and not empty \(it holds ann/mine.faiss\)"):
        CollectionWriter(tmp_path / "c", BINDING)


@pytest.mark.parametrize(
    ("rows", "lists"), [(0, 64), (1_000, 64), (100_000, 512), (1_000_000, 2048), (10_000_000, 8192)]
)
def test_there_are_about_twice_the_root_lists(rows, lists):
    assert lists_for(rows) == lists


def test_equal_settings_make_equal_indexes(path, tmp_path):
    collection = Collection.open(path)
    ids = []
    for name in ("a", "b"):
        entry = build_ann(source_of(collection, text_embeddings(50)), TARGET, tmp_path / name)
        entry = replace(entry, probes=4)
        with (tmp_path / name).open("rb") as file:
            ids.append(Ann(file, entry).shortlist(text_embeddings(20, seed=5), 50))
    np.testing.assert_array_equal(*ids)


def test_a_kill_at_any_moment_leaves_one_of_both_indexes_whole(tmp_path):
    script = Path(__file__).with_name("kill_while_putting_ann.py")
    run = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[0]) > 8, "moments at which the run was killed"


def test_a_query_takes_one_thread_and_gives_the_others_back(path, monkeypatch):
    import faiss

    import indexes.ann as ann_module

    found, real = [], ann_module._search

    def search(*given):
        found.append(faiss.omp_get_max_threads())
        return real(*given)

    before = faiss.omp_get_max_threads()
    monkeypatch.setattr(ann_module, "_search", search)
    faiss.omp_set_num_threads(3)
    try:
        Collection.open(path).nearest(text_embeddings(1), 5)
        assert found == [1] and faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_a_search_maps_no_rows(path):
    """Pages that are mapped stay in the process, until every row of the collection is there."""
    collection = Collection.open(path)
    positions = collection.nearest(text_embeddings(1), 20)[1][0]
    collection.tokens(positions)
    files = [file for segment in collection.segments for file in (segment.embeddings, segment.tokens)]
    assert not any("mapped" in vars(file) for file in files)
    collection.nearest(text_embeddings(1), 20, exact=True)
    assert all("mapped" in vars(segment.embeddings) for segment in collection.segments)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_an_open_index_is_read_by_many_at_once_though_its_name_is_gone(tmp_path, monkeypatch, platform):
    with CollectionWriter(tmp_path, BINDING) as writer:
        writer.commit(batch(1, image_embeddings(600)))
    add_ann(tmp_path, texts=20)
    opened = Collection.open(tmp_path)
    texts = text_embeddings(5)
    expected = opened.open_ann().shortlist(texts, 30)
    (ann_folder(tmp_path) / opened.manifest.ann.file_name).unlink()
    monkeypatch.setattr("sys.platform", platform)
    with ThreadPoolExecutor(4) as threads:
        for ann in threads.map(lambda _: opened.open_ann(), range(8)):
            np.testing.assert_array_equal(ann.shortlist(texts, 30), expected)
