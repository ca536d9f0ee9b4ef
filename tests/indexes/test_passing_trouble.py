"""Trouble of the moment is no damage: a lack of memory, threads, room on disk or file handles, and a writer at work."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from indexes import opening as opening_module
from indexes.collection import Collection
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.paths import ann_folder, segment_folder
from indexes.recovery import SET_ASIDE
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.file_system import failing_at
from tests.indexes.damage import flip, lose_manifest

GOLDEN = Path(__file__).parents[1] / "goldens" / "format-1" / "collection"


def disk_full():
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [MemoryError(), pa.ArrowMemoryError("malloc of size 25600 failed")], ids=repr)
@pytest.mark.parametrize("use", ["repair", "merge", "verify", "rebuild"])
def test_a_lack_of_memory_is_no_damage(collection, monkeypatch, error, use):
    if use == "rebuild":
        lose_manifest(collection)

    def fail(self, *arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetFile.read", fail)
        with pytest.raises(CrosslookError, match="memory") as raised:
            if use == "verify":
                verify(collection)
            else:
                with CollectionWriter(collection, BINDING, repair=use in ("repair", "rebuild")) as writer:
                    writer.merge(everything=True)
    assert not isinstance(raised.value, DamagedSegmentError)
    assert not (collection / SET_ASIDE).exists()


def test_a_lack_of_threads_is_no_damage(collection, monkeypatch):
    def fail(self, *arguments, **options):
        raise OSError("Failed to launch worker thread: Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetFile.read", fail)
        with pytest.raises(CrosslookError, match="now") as raised:
            CollectionWriter(collection, BINDING, repair=True)
    assert not isinstance(raised.value, DamagedSegmentError) and len(Collection.open(collection)) == 30


@pytest.mark.parametrize("passing", [True, False], ids=["one call", "from then on"])
def test_a_repair_that_fails_at_any_call_leaves_what_could_be_opened(collection, tmp_path, monkeypatch, passing):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    flip(segment_folder(collection, 2) / "tokens.npy")
    tried, call, failed = tmp_path / "tried", 0, 0
    while True:
        call += 1
        shutil.rmtree(tried, ignore_errors=True)
        shutil.copytree(collection, tried)
        with failing_at(call, disk_full, once=passing) as count:
            try:
                CollectionWriter(tried, BINDING, repair=True).close()
            except CrosslookError:
                failed += 1
        if count[0] < call:
            break
        assert len(Collection.open(tried)) in (20, 30)
        CollectionWriter(tried, BINDING, repair=True).close()
        assert len(Collection.open(tried)) == 20 and verify(tried).faults == ()
        kept = list((tried / SET_ASIDE).glob("000002*/tokens.npy"))
        assert kept and kept[0].stat().st_size == (segment_folder(collection, 2) / "tokens.npy").stat().st_size
    assert failed > 10


def test_repair_keeps_an_ann_index_that_cannot_be_read_now(with_ann, monkeypatch):
    def fail(path):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(opening_module, "file_checksum", fail)
        with pytest.raises(CrosslookError, match="Too many open files"):
            CollectionWriter(with_ann, BINDING, repair=True)
    assert Collection.open(with_ann).manifest.ann is not None and list(ann_folder(with_ann).iterdir())


def test_verify_beside_a_writer_finds_no_damage(tmp_path):
    path = tmp_path / "c"
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(make_batch(1, 3))
    stop, done = threading.Event(), 0
    faults: list[str] = []

    def write():
        with CollectionWriter(path, BINDING) as writer:
            while not stop.is_set():
                writer.commit(make_batch(writer.manifest.next_id, 3), dead=[writer.manifest.next_id - 1])
                writer.merge()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while done < 60:
            faults += verify(path).faults
            done += 1
    finally:
        stop.set()
        thread.join()
    assert faults == []


def test_a_leftover_that_cannot_be_removed_is_in_nobodys_way(collection, monkeypatch):
    leftover = segment_folder(collection, 4)
    leftover.mkdir()
    (leftover / "embeddings.npy").write_bytes(b"x")
    monkeypatch.setattr("shutil.rmtree", lambda *arguments, **options: None)
    with CollectionWriter(collection, BINDING) as writer:
        for _ in range(2):
            writer.commit(make_batch(writer.manifest.next_id, 1))
    assert len(Collection.open(collection)) == 32


def test_what_a_new_segment_names_is_on_disk_before_the_commit_that_names_it(tmp_path, monkeypatch):
    """After a loss of power only what was synced is there: files before the folder that holds them is renamed, that
    name before the manifest's, and the manifest before CURRENT names it."""
    events: list[tuple[str, ...]] = []
    real_sync, real_replace, real_rename = os.fsync, os.replace, os.rename

    def sync(descriptor):
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        real_sync(descriptor)

    def note(kind, real):
        def call(source, target, *arguments, **options):
            events.append((kind, str(source), str(target)))
            return real(source, target, *arguments, **options)

        return call

    path = tmp_path / "c"
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(make_batch(1, 3))
        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "replace", note("move", real_replace))
        monkeypatch.setattr(os, "rename", note("move", real_rename))
        writer.commit(make_batch(writer.manifest.next_id, 3), dead=[1])
    monkeypatch.undo()
    moves = [(index, event) for index, event in enumerate(events) if event[0] == "move"]
    assert [Path(event[2]).name for _, event in moves] == ["000002", "manifest-000002.json", "CURRENT"]

    def synced(name, before, after=-1):
        return any(event == ("sync", str(name)) for event in events[after + 1 : before])

    (segment, (_, moved, _)), (manifest, _), (pointer, _) = moves
    draft = Path(moved)
    assert draft.parent == path / "segments" and draft.name.startswith("000002") and draft.suffix == ".new"
    for file in segment_folder(path, 2).iterdir():
        assert synced(draft / file.name, segment), file.name
    assert synced(draft, segment) and synced(path / "segments", manifest, segment)
    (vector,) = segment_folder(path, 1).glob("dead-*.npy")
    assert synced(vector, manifest) and synced(vector.parent, manifest)
    assert synced(path / "manifest-000002.json.new", manifest) and synced(path, pointer, manifest)
    assert synced(path / "CURRENT.new", pointer) and synced(path, len(events), pointer)
