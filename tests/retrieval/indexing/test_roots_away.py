"""Indexed folders that are away while a collection is repaired, and after: they are named, and their images come
back."""

from __future__ import annotations

import os
import shutil

import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from retrieval.maintenance import remove_folder
from retrieval.progress import Observer
from tests.support import FakeEncoder, write_photos

REPAIR = Settings(repair=True)


@pytest.fixture
def path(tmp_path):
    """A collection of two folders in two segments: `here` with 3 images, and `drive` with 2."""
    for name, count, first in (("here", 3, 0), ("drive", 2, 50)):
        write_photos(tmp_path / name, count, first=first)
        index_folders([tmp_path / name], tmp_path / "c", FakeEncoder(), Settings(commit_rows=512))
    return tmp_path / "c"


def damage(path):
    for file in (path / "segments").glob("*/embeddings.npy"):
        file.write_bytes(file.read_bytes()[:-5])


def take_away(drive, how):
    shutil.move(drive, drive.with_name("away"))
    if how == "emptied":
        drive.mkdir()


def bring_back(drive):
    if drive.exists():
        drive.rmdir()
    shutil.move(drive.with_name("away"), drive)


def index(folder, path, settings=REPAIR):
    lines: list[str] = []
    progress = index_folders([folder], path, FakeEncoder(), settings, Observer(note=lines.append))
    return progress, [line for line in lines if "is not there now" in line]


def state(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("how", ["gone", "emptied"])
def test_a_root_that_is_away_during_a_repair_is_named_and_embedded_when_it_is_back(path, tmp_path, how):
    here, drive = tmp_path / "here", tmp_path / "drive"
    damage(path)
    take_away(drive, how)
    progress, lines = index(here, path)
    assert progress.new == 3 and progress.dropped == 5
    assert lines == [
        f"{drive} is not there now; images of it that were lost are embedded again by `search index {drive}` when it "
        f"is back; if it is gone for good, `search remove {drive}` forgets it"
    ]
    for _ in range(2):
        assert index(here, path, Settings())[0].unchanged == 3
        assert set(Collection.open(path).manifest.folders) == {str(here), str(drive)}
    bring_back(drive)
    assert index(drive, path, Settings())[0].new == 2


def test_a_root_that_is_gone_and_holds_nothing_is_named_until_it_is_removed(path, tmp_path):
    here, drive = tmp_path / "here", tmp_path / "drive"
    damage(path)
    take_away(drive, "gone")
    index(here, path)
    for _ in range(2):
        assert len(index(here, path, Settings())[1]) == 1
    remove_folder(path, drive)
    assert index(here, path, Settings())[1] == []
    assert Collection.open(path).manifest.folders == (str(here),)


def test_a_root_of_which_nothing_was_lost_is_named_in_a_repair_and_keeps_its_images(path, tmp_path):
    here, drive = tmp_path / "here", tmp_path / "drive"
    take_away(drive, "gone")
    progress, lines = index(here, path)
    assert progress.dropped == 0 and len(lines) == 1 and str(drive) in lines[0]
    assert len(Collection.open(path)) == 5


def test_a_root_in_another_that_was_away_during_a_repair_stays(tmp_path):
    photos, path = tmp_path / "photos", tmp_path / "c"
    write_photos(photos, 3)
    write_photos(photos / ".usb", 2, first=50)
    for folder in (photos, photos / ".usb"):
        index_folders([folder], path, FakeEncoder())
    damage(path)
    shutil.move(photos / ".usb", tmp_path / "away")
    for settings in (REPAIR, Settings(), Settings()):
        _, lines = index(photos, path, settings)
        assert len(lines) == 1 and f"search index {photos}/.usb" in lines[0]
    assert str(photos / ".usb") in Collection.open(path).manifest.folders


def test_a_root_that_was_moved_leaves_and_in_a_repair_it_stays(path, tmp_path):
    drive, new = tmp_path / "drive", tmp_path / "new"
    shutil.move(drive, new)
    assert index(new, path, REPAIR)[0].moved == 2
    assert str(drive) in Collection.open(path).manifest.folders
    shutil.move(new, drive)
    assert index(drive, path, Settings())[0].moved == 2
    assert str(new) not in Collection.open(path).manifest.folders


def test_a_root_that_cannot_be_looked_at_is_named_in_a_repair(path, tmp_path, monkeypatch):
    here, drive = tmp_path / "here", tmp_path / "drive"
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda folder: os.fsencode(folder) != os.fsencode(drive) and real(folder))
    _, lines = index(here, path)
    assert len(lines) == 1 and str(drive) in lines[0] and len(Collection.open(path)) == 5


@pytest.mark.parametrize("how", ["gone", "emptied"])
@pytest.mark.parametrize("is_lost", [False, True], ids=["manifest whole", "manifest lost"])
def test_a_repair_of_what_is_away_is_refused_before_anything_is_changed(path, tmp_path, how, is_lost):
    drive = tmp_path / "drive"
    damage(path)
    if is_lost:
        for manifest in path.glob("manifest-*.json"):
            manifest.write_bytes(b"{")
    take_away(drive, how)
    if how == "emptied":
        shutil.rmtree(tmp_path / "here")
    before = state(path)
    with pytest.raises(CrosslookError, match="no such folder: .*drive" if how == "gone" else "no images in .*drive"):
        index(drive, path)
    assert state(path) == before


def test_a_run_over_what_is_away_changes_nothing_though_current_is_lost(path, tmp_path):
    take_away(tmp_path / "drive", "gone")
    (path / "CURRENT").unlink()
    before = state(path)
    with pytest.raises(CrosslookError, match="no such folder"):
        index(tmp_path / "drive", path, Settings())
    assert state(path) == before
