"""Drives that are away while a run looks for their images: the images are kept."""

from __future__ import annotations

import shutil

import pytest

from indexes.errors import CrosslookError
from tests.drives import Drive, identified
from tests.retrieval.indexing.library import write


@pytest.fixture(autouse=True)
def identities(monkeypatch):
    identified(monkeypatch)


def test_a_drive_that_is_away_is_kept_and_nothing_is_embedded_when_it_is_back(tmp_path, library):
    photos = tmp_path / "photos"
    write(photos, "a.jpg", "sub/b.jpg")
    with Drive(tmp_path / "drive", photos / "usb") as drive:
        write(drive.store, "1.jpg", "DCIM/2.jpg", "DCIM/3.jpg")
        drive.attach()
        library.run(photos)
        assert len(library.embedded) == 5 and library.manifest.mounts == (str(photos / "usb"),)
        drive.detach()
        plan = library.run(photos)
        assert (plan.kept, plan.remove, plan.unchanged) == (3, (), 2)
        assert library.notes == [
            f"{photos}/usb was a mounted drive and no longer is, but 3 were indexed there: kept; mount it; if they are "
            f"gone for good, `search index --forget {photos}` or `search remove {photos}/usb`"
        ]
        drive.attach()
        assert library.run(photos).unchanged == 5
        assert library.embedded == library.notes == []


def test_a_drive_whose_mount_point_is_gone_with_it_is_kept(tmp_path, library):
    """File managers make and remove the mount point."""
    photos = tmp_path / "photos"
    write(photos, "a.jpg")
    with Drive(tmp_path / "drive", photos / "media" / "STICK") as drive:
        write(drive.store, "1.jpg")
        drive.attach()
        library.run(photos)
        drive.detach()
        shutil.rmtree(photos / "media")
        for _ in range(2):
            assert library.run(photos).kept == 1
            assert "media/STICK was a mounted drive" in library.notes[0]
        assert len(library.run(photos, forget=True).remove) == 1
        assert library.manifest.mounts == () and library.run(photos).kept == 0


def test_what_lies_under_a_drive_that_is_away_is_indexed_and_the_drive_kept(tmp_path, library):
    photos = tmp_path / "photos"
    with Drive(tmp_path / "drive", photos / "usb") as drive:
        write(drive.store, "1.jpg", "2.jpg")
        drive.attach()
        write(photos, "a.jpg")
        library.run(photos)
        drive.detach()
        write(photos / "usb", "shadow.jpg")
        plan = library.run(photos)
        assert plan.kept == 2 and library.embedded == ["shadow.jpg"]
        assert library.run(photos).kept == 2 and library.embedded == []


def test_a_drive_that_is_a_root_costs_the_other_roots_nothing(tmp_path, library):
    with Drive(tmp_path / "drive", tmp_path / "usb") as drive:
        write(drive.store, "1.jpg")
        drive.attach()
        write(tmp_path / "photos", "a.jpg")
        library.run(tmp_path / "photos", tmp_path / "usb")
        drive.detach()
        write(tmp_path / "photos", "b.jpg")
        assert library.run(tmp_path / "photos", tmp_path / "usb").kept == 1
        assert library.embedded == ["b.jpg"]
        shutil.rmtree(tmp_path / "usb")
        assert library.run(tmp_path / "photos", tmp_path / "usb").unchanged == 2
        assert f"{tmp_path}/usb is gone; 1 image of it is still in the collection" in library.notes[0]
        assert library.manifest.folders == (str(tmp_path / "photos"), str(tmp_path / "usb"))


def test_another_drive_in_the_same_place_takes_nothing_from_the_first(tmp_path, library):
    photos = tmp_path / "photos"
    write(photos, "a.jpg")
    with Drive(tmp_path / "one", photos / "card", 1) as first, Drive(tmp_path / "two", photos / "card", 2) as second:
        write(first.store, "1.jpg", "2.jpg")
        write(second.store, "3.jpg")
        first.attach()
        library.run(photos)
        first.detach()
        second.attach()
        plan = library.run(photos)
        assert plan.kept == 2 and "seems to be another drive" in library.notes[0]
        second.detach()
        first.attach()
        library.run(photos)
        assert library.embedded == []


def test_a_linked_drive_is_kept_whether_its_folder_is_empty_or_gone(tmp_path, library):
    photos = tmp_path / "photos"
    write(photos, "a.jpg")
    with Drive(tmp_path / "drive", tmp_path / "media" / "usb") as drive:
        write(drive.store, "1.jpg", "DCIM/2.jpg")
        (photos / "link").symlink_to(tmp_path / "media" / "usb")
        drive.attach()
        library.run(photos)
        assert library.manifest.mounts == (str(photos / "link"),)
        drive.detach()
        assert library.run(photos).kept == 2
        shutil.rmtree(tmp_path / "media")
        plan = library.run(photos)
        assert not plan.remove and library.skipped == [("link", "is a broken link; what is known there is kept")]
        assert library.run(photos, forget=True).remove == ()  # a folder out of reach is not taken for empty


@pytest.mark.parametrize("depth", ["usb", "2020/trips/usb"])
def test_an_emptied_folder_is_kept_until_it_is_to_be_forgotten(tmp_path, library, depth):
    """No device number tells why: a locked encrypted folder, a bind mount, photos that were deleted."""
    write(tmp_path, "a.jpg", f"{depth}/1.jpg", f"{depth}/x/2.jpg")
    library.run(tmp_path)
    shutil.rmtree(tmp_path / depth)
    (tmp_path / depth).mkdir()
    for _ in range(2):
        assert library.run(tmp_path).kept == 2
        folder = tmp_path / depth.split("/")[0]
        assert library.notes[0].startswith(f"{folder} holds no images now, but 2 were indexed there: kept;")
        assert f"`search remove {folder}`" in library.notes[0]
    assert len(library.run(tmp_path, forget=True).remove) == 2
    assert library.run(tmp_path).kept == 0 and library.notes == []


def test_names_in_commands_are_quoted_for_a_shell(tmp_path, library):
    write(tmp_path, "a.jpg", "my usb/1.jpg")
    library.run(tmp_path)
    (tmp_path / "my usb" / "1.jpg").unlink()
    library.run(tmp_path)
    assert f"`search remove '{tmp_path}/my usb'`" in library.notes[0]


def test_a_deleted_folder_leaves_and_comes_back_without_being_embedded(tmp_path, library):
    write(tmp_path, "a.jpg", "trip/1.jpg", "trip/day/2.jpg")
    library.run(tmp_path)
    shutil.move(tmp_path / "trip", tmp_path.parent / f"{tmp_path.name}-away")
    assert len(library.run(tmp_path).remove) == 2
    shutil.move(tmp_path.parent / f"{tmp_path.name}-away", tmp_path / "trip")
    assert len(library.run(tmp_path).add) == 2 and library.embedded == []


def test_all_roots_emptied_are_an_error_and_one_is_not(tmp_path, library):
    write(tmp_path, "one/1.jpg", "two/2.jpg")
    first, second = tmp_path / "one", tmp_path / "two"
    library.run(first, second)
    (first / "1.jpg").unlink()
    assert library.run(first, second).kept == 1
    (second / "2.jpg").unlink()
    message = "one holds no images now, but 1 was indexed there: if it is a drive, mount it; .* `search remove .*one`"
    with pytest.raises(CrosslookError, match=message):
        library.run(first, second)
    with pytest.raises(CrosslookError, match="two holds no images"):
        library.run(second)
    assert len(library.run(first, second, forget=True).remove) == 2


def test_a_hidden_root_on_a_drive_that_is_away_stays_covered(tmp_path, library):
    """If its name were forgotten, its images would be removed when the drive is back."""
    photos = tmp_path / "photos"
    write(photos, "a.jpg")
    with Drive(tmp_path / "drive", photos / "usb") as drive:
        write(drive.store, "1.jpg", ".private/2.jpg")
        drive.attach()
        library.run(photos, photos / "usb" / ".private")
        drive.detach()
        assert library.run(photos).kept == 2
        drive.attach()
        assert library.run(photos).remove == ()
        assert len(library.rows) == 3
