"""What a collection promises its readers and its one writer."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from indexes import files
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.manifest import Binding
from indexes.rows import Row, failures_table, rows_table
from indexes.segment import Segment
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter
from tests.indexes.contents import contents
from tests.support import BINDING, copy_tree_bytes, make_batch


def test_what_is_committed_is_read_back(tmp_path):
    batch = make_batch(1, 10, failures=2)
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit(batch, folders=["/photos"])
    collection = Collection.open(tmp_path / "c")
    assert len(collection) == 10
    assert collection.table(["id", "path"])["path"].to_pylist() == batch.rows["path"].to_pylist()
    np.testing.assert_array_equal(collection.embeddings(range(10)), batch.embeddings[0].astype(np.float16))
    np.testing.assert_array_equal(collection.tokens([7, 2]), batch.tokens[0].astype(np.float16)[[7, 2]])
    assert collection.row(3) == Row(**batch.rows.slice(3, 1).to_pylist()[0])
    assert collection.failures().equals(batch.failures)
    assert collection.manifest.folders == ("/photos",)


@pytest.mark.parametrize("positions", [[], [29], [29, 0, 12, 0, 29, 11, 3, 3, 20], list(range(29, -1, -1))])
def test_rows_of_several_segments_come_in_the_order_asked_for(collection, positions):
    found = Collection.open(collection)
    ids = np.array([found.row(position).id for position in positions], np.int64)
    one_by_one = [found.embeddings([position])[0] for position in positions]
    np.testing.assert_array_equal(found.embeddings(positions), np.array(one_by_one).reshape(-1, 8))
    unknown = np.array([-5, 0, 10**6])
    np.testing.assert_array_equal(found.positions(np.r_[ids, unknown]), [*positions, -1, -1, -1])


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
    found = Collection.open(collection)
    assert len(found) == 29
    assert 3 not in found.table(["id"])["id"].to_pylist()
    assert 11 not in found.failures()["id"].to_pylist()
    query = found.embeddings([2]).astype(np.float32)
    assert 2 not in found.nearest(query, 30)[1][0]


def test_merging_changes_nothing_that_counts(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[3, 11, 25])
    before, failed = contents(collection), Collection.open(collection).failures()
    with CollectionWriter(collection, BINDING) as writer:
        assert writer.merge(everything=True) == 2
    assert contents(collection) == before
    assert Collection.open(collection).failures().equals(failed)
    assert Collection.open(collection).manifest.tombstones == ()
    assert [path.name for path in (collection / "segments").iterdir()] == ["000004"]


def test_merging_away_everything_leaves_an_empty_collection(collection):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=range(1, 100))
        writer.merge(everything=True)
    found = Collection.open(collection)
    assert len(found) == 0
    assert found.manifest.segments == ()
    assert found.nearest(np.ones((1, 8), np.float32), 3)[1].tolist() == [[-1, -1, -1]]


def test_ids_are_never_given_twice(collection):
    with CollectionWriter(collection, BINDING) as writer:
        highest = writer.manifest.next_id
        writer.commit(dead=range(1, highest))
        writer.merge(everything=True)
    with CollectionWriter(collection, BINDING) as writer:
        assert writer.manifest.next_id == highest


def test_only_images_in_a_folder(tmp_path):
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit(make_batch(1, 5, folder="/a/b"))
        writer.commit(make_batch(6, 5, folder="/a/bc"))
    found = Collection.open(tmp_path / "c")
    positions = found.nearest(np.ones((1, 8), np.float32), 10, below=[b"/a/b"])[1][0]
    assert sorted(positions[positions >= 0].tolist()) == [0, 1, 2, 3, 4]
    one = found.nearest(np.ones((1, 8), np.float32), 10, below=[b"/a/bc/7.jpg"])[1][0]
    assert one[one >= 0].tolist() == [6]


def test_a_second_writer_is_told_who_is_writing(collection):
    with CollectionWriter(collection, BINDING), pytest.raises(CrosslookError, match=rf"process {os.getpid()} on "):
        CollectionWriter(collection, BINDING)


def test_a_killed_writer_leaves_no_lock(collection):
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.support import BINDING;"
        "from indexes.writer import CollectionWriter;"
        "CollectionWriter(Path(sys.argv[1]), BINDING); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, collection], check=False)
    with CollectionWriter(collection, BINDING) as writer:
        assert len(writer.collection) == 30


@pytest.mark.parametrize("other", ["model", "fingerprint"])
def test_another_model_is_refused_with_both_names(collection, other):
    binding = Binding("other", "0" * 16, 8, (2, 3), "float16")
    if other == "fingerprint":
        binding = Binding("fake", "0" * 16, 8, (2, 3), "float16")
    with pytest.raises(CrosslookError) as caught:
        CollectionWriter(collection, binding)
    for name in ("fake", "other") if other == "model" else ("f" * 16, "0" * 16):
        assert name in str(caught.value)
    CollectionWriter(collection, BINDING).close()


def test_no_collection_yet_says_how_to_make_one(tmp_path):
    with pytest.raises(CrosslookError, match="search index FOLDER"):
        Collection.open(tmp_path / "none")


def test_a_folder_of_something_else_is_not_written_to(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CrosslookError, match=r"thesis\.txt"):
        CollectionWriter(tmp_path, BINDING)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


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


@pytest.mark.parametrize("name", ["embeddings.npy", "rows.parquet"])
def test_repair_drops_the_damaged_segment_only(collection, name):
    path = collection / "segments" / "000002" / name
    path.write_bytes(path.read_bytes()[:-9])
    with CollectionWriter(collection, BINDING, repair=True) as writer:
        assert writer.dropped == 10
    assert len(Collection.open(collection)) == 20
    assert sorted(path.name for path in (collection / "segments").iterdir()) == ["000001", "000003"]


def test_what_a_crash_left_is_removed_by_the_next_writer(collection):
    (collection / "segments" / "000009").mkdir()
    (collection / "segments" / "000009" / "rows.parquet").write_bytes(b"half")
    (collection / "manifest-000099.json").write_text("{")
    CollectionWriter(collection, BINDING).close()
    assert sorted(path.name for path in (collection / "segments").iterdir()) == ["000001", "000002", "000003"]
    assert len(list(collection.glob("manifest-*.json"))) == 1


def test_reading_writes_nothing(collection):
    before = copy_tree_bytes(collection)
    found = Collection.open(collection)
    found.nearest(np.ones((1, 8), np.float32), 3)
    found.row(0), found.failures(), found.table(["id"])
    assert copy_tree_bytes(collection) == before


def test_a_batch_whose_arrays_do_not_fit_its_rows_is_refused(tmp_path):
    batch = make_batch(1, 3)
    wrong = Batch(batch.rows, batch.failures, [batch.embeddings[0][:2]], batch.tokens)
    with CollectionWriter(tmp_path / "c", BINDING) as writer, pytest.raises(ValueError, match="2 vectors for 3 rows"):
        writer.commit(wrong)


def test_names_that_are_not_unicode_and_dates_survive(tmp_path):
    from datetime import datetime

    row = Row(1, b"/p/\xff\xfe\n.jpg", 1, 2, b"h" * 16, 3, 4, datetime(2020, 2, 29, 12, 30, 59))
    batch = Batch(rows_table([row]), failures_table([]), [np.ones((1, 8))], [np.ones((1, 2, 3))])
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit(batch)
    assert Collection.open(tmp_path / "c").row(0) == row


def test_nothing_in_a_collection_is_pickled(collection):
    for path in collection.rglob("*.npy"):
        np.load(path, allow_pickle=False)
    assert {path.suffix for path in collection.rglob("*") if path.is_file()} <= {
        ".npy",
        ".parquet",
        ".json",
        ".lock",
        "",
    }


@pytest.mark.parametrize("mine", ["segments/holiday/diary.txt", "segments/000001/diary.txt", "manifest-notes.json"])
def test_a_users_own_files_are_never_taken_for_leftovers(tmp_path, mine):
    (tmp_path / mine).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mine).write_text("mine")
    with pytest.raises(CrosslookError, match="choose another"):
        CollectionWriter(tmp_path, BINDING)
    assert (tmp_path / mine).read_text() == "mine"


def test_files_of_others_inside_a_collection_stay(collection):
    (collection / "segments" / "notes").mkdir()
    (collection / "manifest-notes.json").write_text("mine")
    with CollectionWriter(collection, BINDING) as writer:
        writer.merge(everything=True)
    assert (collection / "segments" / "notes").is_dir() and (collection / "manifest-notes.json").exists()


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
            found = Collection.open(folder)
            positions = found.table(["id"])["position"].to_numpy()
            assert len(found.rows(positions)) == len(positions)
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
    import indexes.collection as module

    real, merged = module.find_commit, []

    def merge_first(folder):
        commit = real(folder)
        if not merged:
            merged.append(folder)
            with CollectionWriter(collection, BINDING) as writer:
                writer.merge(everything=True)
        return commit

    monkeypatch.setattr(module, "find_commit", merge_first)
    assert len(Collection.open(collection)) == 30


def test_half_a_segment_does_not_stay_on_a_full_disk(tmp_path, monkeypatch):
    with CollectionWriter(tmp_path / "c", BINDING) as writer:

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(CrosslookError, match="disk is full"):
            writer.commit(make_batch(1, 4))
    assert list((tmp_path / "c" / "segments").iterdir()) == []


def test_a_writer_that_has_finished_is_named_no_more(collection):
    CollectionWriter(collection, BINDING).close()
    assert not (collection / "writer.json").exists()


def test_rows_come_in_the_order_asked_for(collection):
    found = Collection.open(collection)
    assert [row.id for row in found.rows([25, 0, 11])] == [found.row(position).id for position in (25, 0, 11)]


def test_a_row_group_that_was_read_is_not_read_again(collection, monkeypatch):
    read, real = [], Segment.row_group

    def row_group(segment, group):
        read.append((segment, group))
        return real(segment, group)

    monkeypatch.setattr(Segment, "row_group", row_group)
    found = Collection.open(collection)
    first = found.rows(range(len(found)))
    assert found.rows(range(len(found))) == first
    assert len(read) == len({*read}) == len(found.segments)


@pytest.mark.parametrize(
    ("limits", "said"),
    [("ulimit -S -n 40", "60 60 60"), ("ulimit -n 40", "cannot read .*: Too many open files")],
    ids=["soft", "hard"],
)
def test_more_segments_than_files_may_be_open_at_first(tmp_path, limits, said):
    folder = tmp_path / "c"
    with CollectionWriter(folder, BINDING) as writer:
        for _ in range(60):
            writer.commit(make_batch(writer.manifest.next_id, 1))
    script = (
        "import sys, numpy as np; from pathlib import Path; from indexes.collection import Collection\n"
        "from indexes.errors import CrosslookError\n"
        "try:\n"
        "    found = Collection.open(Path(sys.argv[1]))\n"
        "    nearest = found.nearest(np.ones((1, 8), np.float32), 60)[1][0]\n"
        "    print(len(found), len(found.tokens(nearest)), len(found.rows(nearest)))\n"
        "except CrosslookError as error:\n"
        "    print(error)\n"
    )
    command = ["sh", "-c", f'{limits}; exec "$@"', "sh", sys.executable, "-c", script, folder]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(said, run.stdout.strip()), run.stdout
