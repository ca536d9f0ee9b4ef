"""What a writer leaves on disk, and whom and what it refuses."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.manifest import Binding
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.contents import contents


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
    opened = Collection.open(collection)
    assert len(opened) == 0
    assert opened.manifest.segments == ()
    assert opened.nearest(np.ones((1, 8), np.float32), 3)[1].tolist() == [[-1, -1, -1]]


def test_ids_are_never_given_twice(collection):
    with CollectionWriter(collection, BINDING) as writer:
        highest = writer.manifest.next_id
        writer.commit(dead=range(1, highest))
        writer.merge(everything=True)
    with CollectionWriter(collection, BINDING) as writer:
        assert writer.manifest.next_id == highest


def test_a_second_writer_is_told_who_is_writing(collection):
    with CollectionWriter(collection, BINDING), pytest.raises(CrosslookError, match=rf"process {os.getpid()} on "):
        CollectionWriter(collection, BINDING)


def test_a_killed_writer_leaves_no_lock(collection):
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.batches import BINDING;"
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


def test_a_folder_of_something_else_is_not_written_to(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CrosslookError, match=r"thesis\.txt"):
        CollectionWriter(tmp_path, BINDING)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


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


def test_a_batch_whose_arrays_do_not_fit_its_rows_is_refused(tmp_path):
    batch = make_batch(1, 3)
    wrong = Batch(batch.rows, batch.failures, [next(iter(batch.embeddings))[:2]], batch.regions)
    with CollectionWriter(tmp_path / "c", BINDING) as writer, pytest.raises(ValueError, match="2 vectors for 3 rows"):
        writer.commit(wrong)


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


def test_half_a_segment_does_not_stay_on_a_full_disk(tmp_path, monkeypatch):
    with CollectionWriter(tmp_path / "c", BINDING) as writer:

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CrosslookError, match="disk is full"):
            writer.commit(make_batch(1, 4))
    assert list((tmp_path / "c" / "segments").iterdir()) == []


def test_a_writer_that_has_finished_is_named_no_more(collection):
    CollectionWriter(collection, BINDING).close()
    assert not (collection / "writer.json").exists()
