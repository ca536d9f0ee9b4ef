"""Runs over real folders, one after the other, with a stand-in for the collection."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil

import pytest

from indexes.errors import CrosslookError
from retrieval.indexing.roots import find_roots
from retrieval.indexing.settings import Settings
from retrieval.indexing.survey import plan_folders
from retrieval.progress import Interrupted
from tests.drives import identified
from tests.retrieval.indexing.library import write


@pytest.fixture(autouse=True)
def identities(monkeypatch):
    identified(monkeypatch)


def test_a_folder_that_cannot_be_read_costs_the_others_nothing(tmp_path, library, monkeypatch):
    write(tmp_path, "one/1.jpg", "one/locked/2.jpg", "two/3.jpg")
    library.run(tmp_path / "one", tmp_path / "two")
    real = os.scandir
    for name, place in (("locked", "locked"), ("one", "one")):

        def scandir(path, name=name):
            if os.path.basename(path) == os.fsencode(name):
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        plan = library.run(tmp_path / "one", tmp_path / "two")
        assert not plan.remove and library.skipped == [(place, "Permission denied; what is known there is kept")]
    with pytest.raises(CrosslookError, match="cannot read the folder .*one: Permission denied"):
        library.run(tmp_path / "one")


def test_a_file_in_a_folder_without_permission_is_told_each_time_and_stays(tmp_path, library, monkeypatch):
    """The folder can be listed, but the status of its files cannot be read."""
    write(tmp_path, "a.jpg", "b.jpg")
    library.run(tmp_path)
    monkeypatch.setattr("retrieval.indexing.walk.status_of", refuse_b)
    for _ in range(2):
        plan = library.run(tmp_path)
        assert (plan.unchanged, plan.remove, plan.add) == (1, (), ())
        assert library.skipped == [("b.jpg", "Permission denied; what is known there is kept")]
    assert library.failed == []


def refuse_b(entry):
    if entry.name == b"b.jpg":
        raise PermissionError(errno.EACCES, "Permission denied")
    return entry.stat(), False


def test_a_renamed_root_is_moved_and_forgotten(tmp_path, library):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "1.jpg", "sub/2.jpg", "sub/deep/3.jpg")
    (old / "bad.jpg").write_text("broken")
    library.run(old)
    old.rename(new)
    plan = library.run(new)
    assert len(plan.rename) == 3 and library.embedded == library.notes == []
    assert library.paths(new) == ["1.jpg", "sub/2.jpg", "sub/deep/3.jpg"]
    assert library.manifest.folders == (str(new),)
    assert [os.fsdecode(item.path) for item in library.failed] == [str(new / "bad.jpg")]


def test_what_is_left_of_a_root_that_is_gone_is_named_until_it_is_removed(tmp_path, library):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "1.jpg", "2.jpg", "3.jpg")
    library.run(old)
    new.mkdir()
    (old / "1.jpg").rename(new / "x.jpg")
    shutil.rmtree(old)
    for moved in (1, 0):
        assert len(library.run(new).rename) == moved
        assert library.notes == [
            f"{old} is gone; 2 images of it are still in the collection: if it is a drive, mount it; if it is gone for "
            f"good, `search remove {old}` takes them out"
        ]
    assert library.manifest.folders == (str(new), str(old))
    library.remove(old)
    library.run(new)
    assert library.notes == [] and library.manifest.folders == (str(new),)


def test_a_renamed_root_with_another_indexed_one_in_it_takes_that_too(tmp_path, library):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "1.jpg", ".private/2.jpg", ".private/3.jpg")
    library.run(old, old / ".private")
    assert library.manifest.folders == (str(old), str(old / ".private"))
    old.rename(new)
    library.run(new)
    assert library.notes[0].startswith(f"{old}/.private is gone; 2 images of it") and len(library.notes) == 1
    assert library.manifest.folders == (str(new), str(old / ".private"))
    library.run(new / ".private")
    assert library.embedded == library.notes == []
    assert library.manifest.folders == (str(new), str(new / ".private"))


def test_a_root_that_is_split_among_two_is_moved(tmp_path, library):
    write(tmp_path, "all/1.jpg", "all/2.jpg")
    library.run(tmp_path / "all")
    write(tmp_path, "b/3.jpg")
    (tmp_path / "a").mkdir()
    (tmp_path / "all" / "1.jpg").rename(tmp_path / "a" / "1.jpg")
    (tmp_path / "all" / "2.jpg").rename(tmp_path / "b" / "2.jpg")
    library.run(tmp_path / "a", tmp_path / "b")
    assert library.embedded == ["3.jpg"] and len(library.rows) == 3


def test_copies_and_copies_of_copies_are_embedded_once(tmp_path, library):
    write(tmp_path, "1/a.jpg")
    for name in ("b.jpg", "c.jpg"):
        shutil.copy2(tmp_path / "1" / "a.jpg", tmp_path / "1" / name)
    library.run(tmp_path / "1")
    assert len(library.embedded) == 1
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    shutil.copytree(tmp_path / "2", tmp_path / "1" / "again")
    library.run(tmp_path / "2")
    library.run(tmp_path / "1")
    assert len(library.rows) == 9 and library.embedded == []
    shutil.rmtree(tmp_path / "1" / "again")
    library.run(tmp_path / "1")
    shutil.copytree(tmp_path / "2", tmp_path / "1" / "more")
    library.run(tmp_path / "1")
    assert len(library.rows) == 9 and library.embedded == []


def test_swapped_names_are_not_embedded(tmp_path, library):
    write(tmp_path, "a.jpg", "b.jpg")
    library.run(tmp_path)
    for old, new in (("a", "t"), ("b", "a"), ("t", "b")):
        (tmp_path / f"{old}.jpg").rename(tmp_path / f"{new}.jpg")
    plan = library.run(tmp_path)
    assert len(plan.reencode) == 2 and library.embedded == []
    assert library.run(tmp_path).unchanged == 2


def test_touched_and_chmodded_files_are_compared_once(tmp_path, library, monkeypatch):
    write(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    library.run(tmp_path)
    os.utime(tmp_path / "a.jpg", ns=(5, 5))
    (tmp_path / "b.jpg").chmod(0o600)
    plan = library.run(tmp_path)
    assert sorted(os.path.basename(touch.file.path) for touch in plan.touch) == [b"a.jpg", b"b.jpg"]
    assert (plan.rename, plan.reencode, plan.unchanged) == ((), (), 1)
    monkeypatch.setattr(hashlib, "file_digest", None)  # nothing is read
    assert library.run(tmp_path).unchanged == 3


def test_a_file_changed_in_place_with_size_and_time_kept_is_embedded_again(tmp_path, library):
    """As `exiftool -P -overwrite_original_in_place` does it."""
    write(tmp_path, "a.jpg", "b.jpg")
    library.run(tmp_path)
    status = (tmp_path / "a.jpg").stat()
    with (tmp_path / "a.jpg").open("r+b") as file:
        file.write(b"A")
    os.utime(tmp_path / "a.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))
    library.run(tmp_path)
    assert library.embedded == ["a.jpg"]


@pytest.mark.parametrize("seconds", [13_569_465_600, 9_300_000_000, -1, -2_208_988_800, 0])
def test_photos_of_any_century_cost_their_neighbours_nothing(tmp_path, library, seconds):
    write(tmp_path, "a.jpg", "b.jpg")
    os.utime(tmp_path / "a.jpg", ns=(seconds * 10**9, seconds * 10**9))
    library.run(tmp_path)
    assert sorted(library.embedded) == ["a.jpg", "b.jpg"]
    assert library.run(tmp_path).unchanged == 2


def test_a_folder_that_does_not_exist_is_an_error_unless_it_was_indexed_and_others_are_there(tmp_path):
    (tmp_path / "there").mkdir()
    good, gone = tmp_path / "there", tmp_path / "gone"
    assert find_roots([gone, good], [str(gone)]) == [os.fsencode(good)]
    for folders, indexed in (([gone, good], []), ([gone], [str(gone)]), ([gone / "deeper", good], [str(gone)])):
        with pytest.raises(CrosslookError, match="^no such folder: .*gone"):
            find_roots(folders, indexed)


def test_a_folder_out_of_reach_is_not_called_missing(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(CrosslookError, match="^cannot read the folder .*loop: Too many levels of symbolic links"):
        find_roots([tmp_path / "loop"])
    with pytest.raises(CrosslookError, match="^cannot read the folder .*: File name too long"):
        find_roots([tmp_path / ("x" * 300)])


def test_a_stop_is_heard_while_folders_are_listed(tmp_path, library):
    write(tmp_path, *(f"{index}.jpg" for index in range(20)))
    asked = []

    def stop():
        asked.append(True)
        return len(asked) == 5

    with pytest.raises(Interrupted):
        library.run(tmp_path, stop=stop)
    assert len(asked) == 5


def test_a_plan_is_made_without_a_collection(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg")
    plan = plan_folders([tmp_path], tmp_path / "none", Settings(exclude=("b.*",)))
    assert [os.path.basename(encoding.file.path) for encoding in plan.add] == [b"a.jpg"]


def test_a_root_inside_another_is_indexed_once(tmp_path, library):
    write(tmp_path, "a.jpg", "sub/b.jpg")
    library.run(tmp_path / "sub")
    library.run(tmp_path, tmp_path / "sub")
    assert library.embedded == ["a.jpg"] and library.manifest.folders == (str(tmp_path),)
    assert library.run(tmp_path / "sub", tmp_path).unchanged == 2


def test_a_folder_that_was_emptied_and_filled_again_can_be_deleted(tmp_path, library):
    write(tmp_path, "a.jpg", "b/1.jpg", "b/2.jpg")
    library.run(tmp_path)
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "b" / name).unlink()
    assert library.run(tmp_path).kept == 2
    write(tmp_path, "b/1.jpg", "b/2.jpg")
    assert library.run(tmp_path).kept == 0
    shutil.rmtree(tmp_path / "b")
    assert len(library.run(tmp_path).remove) == 2


@pytest.mark.parametrize("folder", ["b", "b/c"])
def test_a_root_in_another_that_is_deleted_later_is_removed(tmp_path, library, folder):
    write(tmp_path, "a.jpg", f"{folder}/1.jpg")
    library.run(tmp_path / folder)
    library.run(tmp_path, tmp_path / folder)
    shutil.rmtree(tmp_path / "b")
    assert len(library.run(tmp_path).remove) == 1
