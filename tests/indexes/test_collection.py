"""What a collection promises its readers."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.commits import find_commit
from indexes.errors import CrosslookError
from indexes.filters import InFolder
from indexes.rows import Row, failures_table, rows_table
from indexes.segment import Segment
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter
from tests.batches import BINDING, copy_tree_bytes, make_batch


def test_what_is_committed_is_read_back(tmp_path):
    batch = make_batch(1, 10, failures=2)
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit(batch, folders=["/photos"])
    collection = Collection.open(tmp_path / "c")
    assert len(collection) == 10
    assert collection.table(["id", "path"])["path"].to_pylist() == batch.rows["path"].to_pylist()
    np.testing.assert_array_equal(collection.embeddings(range(10)), next(iter(batch.embeddings)).astype(np.float16))
    np.testing.assert_array_equal(collection.regions([7, 2]), next(iter(batch.regions)).astype(np.float16)[[7, 2]])
    assert collection.row(3) == Row(**batch.rows.slice(3, 1).to_pylist()[0])
    assert collection.failures().equals(batch.failures)
    assert collection.manifest.folders == ("/photos",)


@pytest.mark.parametrize("positions", [[], [29], [29, 0, 12, 0, 29, 11, 3, 3, 20], list(range(29, -1, -1))])
def test_rows_of_several_segments_come_in_the_order_asked_for(collection, positions):
    opened = Collection.open(collection)
    ids = np.array([opened.row(position).id for position in positions], np.int64)
    one_by_one = [opened.embeddings([position])[0] for position in positions]
    np.testing.assert_array_equal(opened.embeddings(positions), np.array(one_by_one).reshape(-1, 8))
    unknown = np.array([-5, 0, 10**6])
    np.testing.assert_array_equal(opened.positions(np.r_[ids, unknown]), [*positions, -1, -1, -1])


def test_a_reader_keeps_its_commit_while_a_writer_goes_on(collection):
    reader = Collection.open(collection)
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 5), dead=[1, 2])
        writer.merge(everything=True)
    assert len(reader) == 30
    assert reader.row(0).id == 1
    assert reader.embeddings([0]).shape == (1, 8)
    assert len(reader.failures()) == 6
    assert len(Collection.open(collection)) == 33


def test_dead_rows_and_failures_do_not_count(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[3, 11])
    opened = Collection.open(collection)
    assert len(opened) == 29
    assert 3 not in opened.table(["id"])["id"].to_pylist()
    assert 11 not in opened.failures()["id"].to_pylist()
    query = opened.embeddings([2]).astype(np.float32)
    assert 2 not in opened.nearest(query, 30)[1][0]


def test_only_images_in_a_folder(tmp_path):
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit(make_batch(1, 5, folder="/a/b"))
        writer.commit(make_batch(6, 5, folder="/a/bc"))
    opened = Collection.open(tmp_path / "c")
    positions = opened.nearest(np.ones((1, 8), np.float32), 10, filters=[InFolder((b"/a/b",))])[1][0]
    assert sorted(positions[positions >= 0].tolist()) == [0, 1, 2, 3, 4]
    positions = opened.nearest(np.ones((1, 8), np.float32), 10, filters=[InFolder((b"/a/bc/7.jpg",))])[1][0]
    assert positions[positions >= 0].tolist() == [6]


def test_no_collection_yet_says_how_to_make_one(tmp_path):
    with pytest.raises(CrosslookError, match="search index FOLDER"):
        Collection.open(tmp_path / "none")


def test_a_file_is_not_a_collection(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CrosslookError, match="is a file"):
        CollectionWriter(tmp_path / "file", BINDING)
    with pytest.raises(CrosslookError, match="cannot read"):
        Collection.open(tmp_path / "file")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"format": 1}', b'{"format": 1, "binding": {}, "folders": []}'],
    ids=["empty", "truncated", "list", "string", "binary", "bare", "wrong-fields"],
)
def test_a_damaged_manifest_is_one_clear_line(collection, content):
    name = (collection / "CURRENT").read_text().strip()
    (collection / name).write_bytes(content)
    with pytest.raises(CrosslookError, match=rf"^[^\n]*{name} is damaged[^\n]*$"):
        Collection.open(collection)


def test_a_newer_format_asks_for_an_upgrade(collection):
    (collection / (collection / "CURRENT").read_text().strip()).write_text('{"format": 99, "all": "else"}')
    with pytest.raises(CrosslookError, match="upgrade crosslook"):
        Collection.open(collection)


@pytest.mark.parametrize("name", ["embeddings.npy", "tokens.npy", "rows.parquet", "failures.parquet"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "missing"])
def test_a_damaged_segment_names_the_file_and_the_remedy(collection, name, damage):
    path = collection / "segments" / "000002" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size - 9 if damage == "truncated" else 0])
    with pytest.raises(CrosslookError, match=r"^[^\n]*000002[^\n]*--repair[^\n]*$"):
        Collection.open(collection)


def test_reading_writes_nothing(collection):
    before = copy_tree_bytes(collection)
    opened = Collection.open(collection)
    opened.nearest(np.ones((1, 8), np.float32), 3)
    opened.row(0), opened.failures(), opened.table(["id"])
    assert copy_tree_bytes(collection) == before


def test_names_that_are_not_unicode_and_dates_survive(tmp_path):
    from datetime import datetime

    row = Row(1, b"/p/\xff\xfe\n.jpg", 1, 2, b"h" * 16, 3, 4, datetime(2020, 2, 29, 12, 30, 59))
    batch = Batch(rows_table([row]), failures_table([]), [np.ones((1, 8))], [np.ones((1, 2, 3))])
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit(batch)
    assert Collection.open(tmp_path / "c").row(0) == row


@pytest.mark.parametrize("repair", [False, True])
def test_a_file_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(collection, monkeypatch, repair):
    real = Path.open

    def refuse(path, *options, **named):
        if path.name == "tokens.npy":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *options, **named)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CrosslookError, match=r"cannot read .*tokens\.npy: Permission denied"):
        CollectionWriter(collection, BINDING, repair=repair)
    monkeypatch.undo()
    assert len(Collection.open(collection)) == 30


def test_readers_see_whole_commits_while_a_writer_commits_and_merges(tmp_path):
    """Every commit holds a multiple of three rows; a reader that mixed two commits would count others, or fail."""
    folder = tmp_path / "c"
    with CollectionWriter(folder, BINDING) as writer:
        writer.commit(make_batch(1, 3))
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            opened = Collection.open(folder)
            positions = opened.table(["id"])["position"].to_numpy()
            assert len(opened.rows(positions)) == len(positions)
            seen.add(len(positions))

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        with CollectionWriter(folder, BINDING) as writer:
            for _ in range(60):
                writer.commit(make_batch(writer.manifest.next_id, 3))
                writer.merge()
        stop.set()
        for reader in readers:
            reader.result()
    assert len(seen) > 3 and all(count % 3 == 0 for count in seen)


def test_a_commit_replaced_while_it_is_opened_is_opened_anew(collection, monkeypatch):
    """The reader's worst moment: it has read CURRENT, then everything it names is merged away."""
    merged: list[Path] = []

    def merge_first(folder):
        commit = find_commit(folder)
        if not merged:
            merged.append(folder)
            with CollectionWriter(collection, BINDING) as writer:
                writer.merge(everything=True)
        return commit

    monkeypatch.setattr("indexes.collection.find_commit", merge_first)
    assert len(Collection.open(collection)) == 30


def test_rows_come_in_the_order_asked_for(collection):
    opened = Collection.open(collection)
    assert [row.id for row in opened.rows([25, 0, 11])] == [opened.row(position).id for position in (25, 0, 11)]


def test_a_row_group_that_was_read_is_not_read_again(collection, monkeypatch):
    read, real = [], Segment.row_group

    def row_group(segment, group):
        read.append((segment, group))
        return real(segment, group)

    monkeypatch.setattr(Segment, "row_group", row_group)
    opened = Collection.open(collection)
    first = opened.rows(range(len(opened)))
    assert opened.rows(range(len(opened))) == first
    assert len(read) == len({*read}) == len(opened.segments)


@pytest.mark.parametrize(
    ("limits", "output"),
    [("ulimit -S -n 40", "60 60 60"), ("ulimit -n 40", "cannot read .*: Too many open files")],
    ids=["soft", "hard"],
)
def test_more_segments_than_files_may_be_open_at_first(tmp_path, limits, output):
    folder = tmp_path / "c"
    with CollectionWriter(folder, BINDING) as writer:
        for _ in range(60):
            writer.commit(make_batch(writer.manifest.next_id, 1))
    script = (
        "import sys, numpy as np; from pathlib import Path; from indexes.collection import Collection\n"
        "from indexes.errors import CrosslookError\n"
        "try:\n"
        "    opened = Collection.open(Path(sys.argv[1]))\n"
        "    nearest = opened.nearest(np.ones((1, 8), np.float32), 60)[1][0]\n"
        "    print(len(opened), len(opened.regions(nearest)), len(opened.rows(nearest)))\n"
        "except CrosslookError as error:\n"
        "    print(error)\n"
    )
    command = ["sh", "-c", f'{limits}; exec "$@"', "sh", sys.executable, "-c", script, folder]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(output, run.stdout.strip()), run.stdout


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("shape", "count", "reason"),
    [
        ((1, 30), 0, "cannot return 0 images: count must be 1 or more"),
        ((1, 30), -1, "cannot return -1 images: count must be 1 or more"),
        ((0, 30), 0, "cannot return 0 images: count must be 1 or more"),
        ((1, 31), 3, r"queries of shape \(1, 31\): expected \(number, 30\)"),
        ((0, 8), 3, r"queries of shape \(0, 8\): expected \(number, 30\)"),
        ((30,), 3, r"queries of shape \(30,\): expected \(number, 30\)"),
    ],
)
def test_what_cannot_be_asked_is_a_clear_error_with_an_index_and_without(path, shape, count, reason, exact):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        Collection.open(path).nearest(np.zeros(shape, np.float32), count, exact=exact)
