"""Which commit is in force when the files that say so are damaged, and what is rebuilt from the segments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.commits import CURRENT, current_name, find_commit
from indexes.errors import CrosslookError, DamagedCollectionError
from indexes.manifest import Manifest
from indexes.manifest_file import to_bytes
from indexes.paths import segment_folder
from indexes.recovery import SET_ASIDE, current_binding
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.indexes.contents import contents, removed_rows

POINTERS = {
    "empty": b"",
    "path": b"../../etc/passwd\n",
    "binary": b"\xff\xff\x00",
    "another": b"manifest-999999.json\n",
    "truncated": b"manifest-0000",
    "missing": None,
}
MANIFESTS = {
    "empty": b"",
    "truncated": b'{"checksum": "crc32:00000000", "format": 2, "bin',
    "zeros": bytes(4096),
    "list": b"[1, 2]",
    "bare": b'{"format": 2}',
    "missing": None,
}


def put(path, content):
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("pointer", POINTERS.values(), ids=POINTERS.keys())
def test_without_a_pointer_the_newest_whole_manifest_counts_and_nothing_is_deleted(collection, pointer):
    before, segments = contents(collection), files_in(collection / "segments")
    put(collection / CURRENT, pointer)
    opened = Collection.open(collection)
    assert opened.fault is not None and "CURRENT" in opened.fault
    assert contents(collection) == before
    with CollectionWriter(collection, BINDING) as writer:
        assert any("CURRENT" in note and "\n" not in note for note in writer.notes)
    assert contents(collection) == before and files_in(collection / "segments") == segments
    assert Collection.open(collection).fault is None


@pytest.mark.parametrize("pointer", [b"", b"manifest-999999.json\n"], ids=["empty", "another"])
def test_repair_mends_a_damaged_pointer(collection, pointer):
    before = contents(collection)
    (collection / CURRENT).write_bytes(pointer)
    with CollectionWriter(collection, BINDING, repair=True) as writer:
        assert writer.dropped == 0
    assert contents(collection) == before


def test_segments_that_an_older_manifest_does_not_name_are_set_aside(collection):
    """The pointer is lost and the last manifest too: only the one before is left, which knows less."""
    older = (collection / current_name(collection)).read_bytes()
    name = current_name(collection)
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 5))
    (collection / current_name(collection)).unlink()
    (collection / name).write_bytes(older)
    (collection / CURRENT).unlink()
    CollectionWriter(collection, BINDING).close()
    assert (collection / SET_ASIDE / "000004" / "embeddings.npy").exists()
    assert len(Collection.open(collection)) == 30


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_lost_manifest_is_told_in_one_line_with_the_remedy_and_nothing_is_deleted(collection, content):
    put(collection / current_name(collection), content)
    before = files_in(collection)
    for use in (Collection.open, lambda path: CollectionWriter(path, BINDING)):
        with pytest.raises(DamagedCollectionError, match=r"^[^\n]* is damaged: [^\n]*--repair[^\n]*segments$"):
            use(collection)
    after = files_in(collection)
    after.pop(collection / "writer.lock", None)
    before.pop(collection / "writer.lock", None)
    assert after == before


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS.keys())
@pytest.mark.parametrize("pointer", ["missing", "empty", "kept"])
def test_repair_rebuilds_a_lost_manifest_from_the_segments(collection, content, pointer):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(dead=[1, 11], removed=[2])
    before, binding = contents(collection), Collection.open(collection).binding
    put(collection / current_name(collection), content)
    if pointer != "kept":
        put(collection / CURRENT, POINTERS[pointer])
    assert current_binding(collection) == binding
    with CollectionWriter(collection, BINDING, repair=True) as writer:
        assert writer.dropped == 0
        assert any("rebuilt from 3 segments with 27 images" in note for note in writer.notes)
        first = writer.manifest.next_id
        writer.commit(make_batch(first, 1, folder="/new"))
    assert contents(collection)[:-1] == before and first > 36
    opened = Collection.open(collection)
    assert removed_rows(opened, ["id"])["id"].to_pylist() == [2]
    assert verify(collection).faults == ()


def test_folders_are_kept_where_a_damaged_manifest_still_says_them(collection):
    path = collection / current_name(collection)
    path.write_bytes(path.read_bytes().replace(b'"next_id": 37', b'"next_id": 30'))
    with CollectionWriter(collection, BINDING, repair=True) as writer:
        assert writer.manifest.folders == ("/photos",)


def test_a_rebuilt_manifest_counts_what_an_unfinished_merge_left_once(collection):
    """Killed between the commit of a merge and the removal of what was merged; then the manifest is lost."""
    before = contents(collection)
    shutil.copytree(collection / "segments", collection.parent / "old")
    with CollectionWriter(collection, BINDING) as writer:
        writer.merge(everything=True)
    for number in ("000001", "000002", "000003"):
        shutil.copytree(collection.parent / "old" / number, collection / "segments" / number)
    (collection / current_name(collection)).unlink()
    with CollectionWriter(collection, BINDING, repair=True) as writer:
        assert len(writer.manifest.segments) == 1
    assert contents(collection) == before


def test_a_rebuilt_manifest_counts_the_newest_row_of_a_path_that_was_replaced(collection):
    """The deletion vector of the replaced row is lost with the manifest."""
    with CollectionWriter(collection, BINDING) as writer:
        row = writer.collection.row(0)
        batch = make_batch(writer.manifest.next_id, 1)
        paths = batch.rows.set_column(1, "path", [[row.path]]).cast(batch.rows.schema)
        writer.commit(type(batch)(paths, batch.failures, batch.embeddings, batch.regions), dead=[row.id])
    before = contents(collection)
    (collection / current_name(collection)).unlink()
    for path in (collection / "segments" / "000001").glob("dead-*.npy"):
        path.unlink()
    CollectionWriter(collection, BINDING, repair=True).close()
    assert contents(collection) == before


def test_what_cannot_be_used_for_a_rebuilt_manifest_is_set_aside_by_name(collection):
    (collection / current_name(collection)).unlink()
    (segment_folder(collection, 2) / "tokens.npy").write_bytes(b"rubbish")
    with CollectionWriter(collection, BINDING, repair=True) as writer:
        assert any("000002 cannot be used: " in note and SET_ASIDE in note for note in writer.notes)
    assert (collection / SET_ASIDE / "000002" / "tokens.npy").read_bytes() == b"rubbish"
    assert len(Collection.open(collection)) == 20


def test_segments_of_the_first_format_of_which_nothing_says_the_model_are_left_alone(tmp_path):
    golden = Path(__file__).parents[1] / "goldens" / "format-1" / "collection"
    path = tmp_path / "c"
    shutil.copytree(golden, path)
    segments = {file.name: file.read_bytes() for file in (path / "segments" / "000004").iterdir()}
    (path / current_name(path)).write_bytes(b"{")
    before = files_in(path)
    with pytest.raises(DamagedCollectionError):
        CollectionWriter(path, BINDING)
    with pytest.raises(CrosslookError, match=r"which model it was made with.*another collection"):
        CollectionWriter(path, BINDING, repair=True)
    assert {file: content for file, content in files_in(path).items() if file.name != "writer.lock"} == {
        file: content for file, content in before.items() if file.name != "writer.lock"
    }
    assert {file.name: file.read_bytes() for file in (path / "segments" / "000004").iterdir()} == segments


class TestTheFirstCommit:
    """A collection that never had a commit: nothing counts yet, and nothing is in the way of the next run."""

    def test_a_torn_first_manifest_of_the_first_format_is_no_collection(self, tmp_path):
        """What a kill or a full disk left before manifests appeared whole."""
        (tmp_path / "segments").mkdir()
        (tmp_path / "manifest-000001.json").write_bytes(b"")
        assert find_commit(tmp_path) is None
        with CollectionWriter(tmp_path, BINDING) as writer:
            writer.commit(make_batch(1, 2))
        assert len(Collection.open(tmp_path)) == 2

    def test_a_segment_beside_a_torn_first_manifest_is_set_aside(self, tmp_path):
        (tmp_path / "segments" / "000001").mkdir(parents=True)
        (tmp_path / "segments" / "000001" / "embeddings.npy").write_bytes(b"x")
        (tmp_path / "manifest-000001.json").write_bytes(b"")
        with CollectionWriter(tmp_path, BINDING) as writer:
            writer.commit(make_batch(1, 2))
        assert (tmp_path / SET_ASIDE / "000001" / "embeddings.npy").exists()

    def test_a_whole_segment_without_a_manifest_is_taken_over(self, tmp_path):
        with CollectionWriter(tmp_path / "c", BINDING) as writer:
            writer.commit(make_batch(1, 3))
        before = contents(tmp_path / "c")
        (tmp_path / "c" / current_name(tmp_path / "c")).unlink()
        (tmp_path / "c" / CURRENT).unlink()
        with CollectionWriter(tmp_path / "c", BINDING) as writer:
            assert len(writer.collection) == 3 and len(writer.notes) == 1
        assert contents(tmp_path / "c") == before

    @pytest.mark.parametrize("draft", ["manifest-000001.json.new", "CURRENT.new", "segments/000001.new"])
    def test_a_draft_is_in_nobodys_way(self, tmp_path, draft):
        path = tmp_path / "c" / draft
        path.parent.mkdir(parents=True)
        if "segments" in draft:
            path.mkdir()
            (path / "embeddings.npy").write_bytes(b"half")
        else:
            path.write_bytes(b"half")
        with CollectionWriter(tmp_path / "c", BINDING) as writer:
            writer.commit(make_batch(1, 2))
        assert len(Collection.open(tmp_path / "c")) == 2 and not path.exists()


def test_no_message_tells_anyone_to_delete_a_collection():
    root = Path(__file__).parents[2]
    sources = [path.read_text() for name in ("indexes", "retrieval", "cli") for path in (root / name).rglob("*.py")]
    lines = [line for source in sources for line in source.splitlines() if "delete" in line and '"' in line]
    assert [line for line in lines if "or delete" in line or "delete it first" in line] == []


def test_a_manifest_of_a_later_format_is_never_passed_over_for_an_older_one(collection):
    newer = json.dumps({"format": 99}).encode()
    (collection / "manifest-000099.json").write_bytes(newer)
    (collection / CURRENT).write_bytes(b"")
    with pytest.raises(CrosslookError, match="upgrade crosslook"):
        Collection.open(collection)
    with pytest.raises(CrosslookError, match="upgrade crosslook"):
        CollectionWriter(collection, BINDING, repair=True)
    assert (collection / "manifest-000099.json").read_bytes() == newer


def test_a_stale_manifest_beside_the_current_one_changes_nothing(collection):
    stale = Manifest(BINDING, generation=99)
    (collection / stale.file_name).write_bytes(to_bytes(stale))
    assert len(Collection.open(collection)) == 30
    CollectionWriter(collection, BINDING).close()
    assert not (collection / stale.file_name).exists()


def test_ids_ascend_after_a_rebuild(collection):
    with CollectionWriter(collection, BINDING) as writer:
        for _ in range(3):
            writer.commit(make_batch(writer.manifest.next_id, 4))
        writer.merge()
    (collection / current_name(collection)).unlink()
    with CollectionWriter(collection, BINDING, repair=True) as writer:
        ids = np.concatenate([segment.ids for segment in writer.collection.segments])
    assert (np.diff(ids) > 0).all() and len(ids) == 42


def test_the_manifest_in_force_is_read_once_when_a_writer_opens(collection, monkeypatch):
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.manifest.next_id, 1))
    reads, real = [], Path.read_bytes

    def read_bytes(path):
        reads.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    CollectionWriter(collection, BINDING).close()
    assert [name for name in reads if name.startswith("manifest-")] == [current_name(collection)]
