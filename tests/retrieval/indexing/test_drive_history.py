"""Drives that take turns at one mount point: no image of an absent drive is lost, and deletions count."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import pytest

from retrieval.indexing.fates import Absence
from tests.drives import identified
from tests.retrieval.indexing.library import write
from tests.retrieval.indexing.slots import Slot, fill, kept

CARDS = {
    "other names": (["DCIM/1.jpg", "DCIM/2.jpg"], ["DCIM/7.jpg", "DCIM/8.jpg", "DCIM/9.jpg"]),
    "other folders": (["100/1.jpg", "100/2.jpg"], ["101/1.jpg", "101/2.jpg", "101/3.jpg"]),
    "other depths": (["1.jpg", "x/y/2.jpg"], ["z/3.jpg", "z/4.jpg", "5.jpg"]),
}


@pytest.mark.parametrize("files", CARDS.values(), ids=CARDS)
def test_of_two_drives_in_turns_the_one_that_is_away_is_kept_and_named_each_time(tmp_path, library, slot, knows, files):
    photos = tmp_path / "photos"
    fill(slot, "A", *files[0])
    fill(slot, "B", *files[1])
    slot.put("A")
    library.run(photos)
    for turn, (name, away) in enumerate([("B", 2), ("B", 2), ("A", 3), ("B", 2), ("A", 3), ("A", 3)]):
        slot.put(name)
        plan = library.run(photos)
        assert kept(plan) == [("card", away, Absence.REPLACED)] and plan.remove == ()
        assert len(library.embedded) == (3 if turn == 0 else 0) and len(library.rows) == 6
        assert f"{photos}/card seems to be another drive now, which lacks or hides images of which {away}" in str(
            library.notes
        )
        assert f"`search index --forget {photos}` takes them out" in library.notes[0]


def test_what_is_deleted_on_the_drive_that_is_in_is_removed_and_the_other_kept(tmp_path, library, slot, knows):
    fill(slot, "A", "1.jpg", "2.jpg", "3.jpg")
    fill(slot, "B", "7.jpg", "8.jpg")
    for name in "ABA":
        slot.put(name)
        library.run(tmp_path / "photos")
    (slot.mount_point / "1.jpg").unlink()
    plan = library.run(tmp_path / "photos")
    assert [gone.path.rpartition(b"/")[2] for gone in plan.remove] == [b"1.jpg"]
    assert kept(plan) == [("card", 2, Absence.REPLACED)]
    slot.put("B")
    (slot.mount_point / "8.jpg").unlink()
    plan = library.run(tmp_path / "photos")
    assert [gone.path.rpartition(b"/")[2] for gone in plan.remove] == [b"8.jpg"]
    assert kept(plan) == [("card", 2, Absence.REPLACED)]


def test_images_that_come_to_a_drive_later_are_known_as_its_own(tmp_path, library, slot, knows):
    fill(slot, "A", "1.jpg")
    fill(slot, "B", "7.jpg")
    for name in "AB":
        slot.put(name)
        library.run(tmp_path / "photos")
    slot.put("A")
    write(slot.mount_point, "2.jpg", of="A")
    library.run(tmp_path / "photos")
    slot.put("B")
    write(slot.mount_point, "8.jpg", of="B")
    assert kept(library.run(tmp_path / "photos")) == [("card", 2, Absence.REPLACED)]
    slot.put("A")
    assert kept(library.run(tmp_path / "photos")) == [("card", 2, Absence.REPLACED)]
    (slot.mount_point / "2.jpg").unlink()
    plan = library.run(tmp_path / "photos")
    assert len(plan.remove) == 1 and kept(plan) == [("card", 2, Absence.REPLACED)]


def test_three_drives_and_none_in_turns_lose_nothing(tmp_path, library, knows):
    photos = tmp_path / "photos"
    write(photos, "own.jpg")
    with ExitStack() as stack:
        slot = Slot(stack, tmp_path, photos / "card", "A", "B", "C")
        for name, files in {"A": ["1.jpg"], "B": ["2.jpg", "3.jpg"], "C": ["4.jpg", "5.jpg", "6.jpg"]}.items():
            fill(slot, name, *files)
        for card in "ABC":
            slot.put(card)
            library.run(photos)
        for inserted in ["B", None, "A", "C", None, "B"]:
            slot.put(inserted)
            plan = library.run(photos)
            assert (plan.remove, plan.add, library.embedded) == ((), (), [])
            assert plan.kept == 6 - len({"A": "1", "B": "12", "C": "123"}.get(inserted or "", ""))
        slot.put(None)


@pytest.mark.parametrize("others", [["1.jpg", "2.jpg", "3.jpg", "4.jpg"], ["1.jpg", "2.jpg"], ["1.jpg", "5.jpg"]])
def test_cards_with_the_same_names_replace_each_other_and_are_embedded_once(tmp_path, library, slot, knows, others):
    """A path has one row. An image without a file of its name on the other card is kept."""
    fill(slot, "A", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    fill(slot, "B", *others)
    for turn, name in enumerate("ABABA"):
        slot.put(name)
        plan = library.run(tmp_path / "photos")
        assert plan.remove == () and all(item.may_be_known for item in plan.reencode)
        assert turn < 2 or library.embedded == []
        assert len(library.rows) == (5 if turn == 0 else len({"1.jpg", "2.jpg", "3.jpg", "4.jpg", *others}) + 1)


@pytest.mark.parametrize("names", [["1.jpg"], ["1.jpg", "x/2.jpg", "x/y/3.jpg"]])
def test_images_of_a_folder_that_a_drive_hides_are_kept_until_it_is_away(tmp_path, library, slot, knows, names):
    photos = tmp_path / "photos"
    write(slot.mount_point, *names)
    library.run(photos)
    fill(slot, "A", "7.jpg", "8.jpg")
    for _ in range(2):
        slot.put("A")
        for _ in range(2):
            assert kept(library.run(photos)) == [("card", len(names), Absence.REPLACED)]
        slot.put(None)
        for _ in range(2):
            plan = library.run(photos)
            assert kept(plan) == [("card", 2, Absence.UNMOUNTED)] and plan.unchanged == 1 + len(names)
    slot.put("A")
    assert len(library.run(photos, forget=True).remove) == len(names)


def test_a_drive_over_a_hidden_folder_that_holds_one_of_its_images_hides_the_others(tmp_path, library, slot, known):
    write(slot.mount_point, "1.jpg", "2.jpg", "3.jpg")
    library.run(tmp_path / "photos")
    shutil.copy2(slot.mount_point / "1.jpg", slot.store("A"))
    slot.put("A")
    plan = library.run(tmp_path / "photos")
    assert kept(plan) == [("card", 2, Absence.REPLACED)]


def test_a_folder_on_another_stick_takes_nothing_from_the_one_of_its_name(tmp_path, library, known):
    """The root lies below the mount point."""
    with ExitStack() as stack:
        slot = Slot(stack, tmp_path, tmp_path / "usb", "A", "B")
        fill(slot, "A", "Photos/1.jpg", "Photos/x/2.jpg")
        fill(slot, "B", "Photos/3.jpg")
        for turn, name in enumerate("ABAB"):
            slot.put(name)
            plan = library.run(tmp_path / "usb" / "Photos")
            assert plan.remove == () and plan.kept == (0 if turn == 0 else 2 if name == "B" else 1)
            assert turn < 2 or library.embedded == []
        plan = library.run(tmp_path / "usb")  # whichever folder the run is asked for
        assert kept(plan) == [("Photos", 2, Absence.REPLACED)]
        assert library.run(tmp_path / "usb").kept == 2
        slot.put("A")
        assert library.run(tmp_path / "usb").kept == 1
        (tmp_path / "usb" / "Photos" / "1.jpg").unlink()
        assert len(library.run(tmp_path / "usb").remove) == 1
        slot.put(None)


def test_a_disk_that_was_copied_to_another_is_the_same_if_half_of_it_is_there(tmp_path, library, slot, known):
    fill(slot, "A", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    slot.put("A")
    library.run(tmp_path / "photos")
    slot.put(None)
    for name in ("1.jpg", "2.jpg"):
        shutil.copy2(slot.store("A") / name, slot.store("B") / name)
    slot.put("B")
    plan = library.run(tmp_path / "photos")
    assert len(plan.remove) == 2 and plan.kept == 0
    (slot.mount_point / "1.jpg").unlink()  # and its identity is the one remembered from now on
    plan = library.run(tmp_path / "photos")
    assert len(plan.remove) == 1 and plan.kept == 0


def test_a_disk_on_which_all_was_renamed_is_the_same_whatever_its_identity(tmp_path, library, slot, known):
    fill(slot, "A", "1.jpg", "2.jpg", "3.jpg")
    slot.put("A")
    library.run(tmp_path / "photos")
    slot.put(None)
    for name in ("1.jpg", "2.jpg"):
        shutil.copy2(slot.store("A") / name, slot.store("B") / f"new-{name}")
    slot.put("B")
    plan = library.run(tmp_path / "photos")
    assert (len(plan.rename), len(plan.remove), plan.kept) == (2, 1, 0)


def test_all_images_deleted_but_one_that_is_new_is_a_deletion_where_the_drive_is_the_same(
    tmp_path, library, slot, known
):
    fill(slot, "A", "1.jpg", "2.jpg")
    slot.put("A")
    library.run(tmp_path / "photos")
    for name in ("1.jpg", "2.jpg"):
        (slot.mount_point / name).unlink()
    write(slot.mount_point, "3.jpg", of="A")
    plan = library.run(tmp_path / "photos")
    assert len(plan.remove) == 2 and plan.kept == 0


def test_a_collection_of_an_older_version_learns_the_identities(tmp_path, library, slot, known, monkeypatch):
    fill(slot, "A", "1.jpg", "2.jpg")
    fill(slot, "B", "1.jpg")
    slot.put("A")
    library.run(tmp_path / "photos")
    library.manifest.devices = {}
    library.run(tmp_path / "photos")
    assert {folder.rpartition("/")[2]: len(history) for folder, history in library.manifest.devices.items()} == {
        "photos": 1,
        "card": 1,
    }
    assert all(label for history in library.manifest.devices.values() for _, label in history)
    slot.put("B")
    assert library.run(tmp_path / "photos").kept == 1


def test_an_identity_that_cannot_be_told_at_times_costs_nothing(tmp_path, library, slot, monkeypatch):
    fill(slot, "A", "1.jpg", "2.jpg")
    fill(slot, "B", "7.jpg", "8.jpg", "9.jpg")
    for turn, name in enumerate("ABABAB"):
        with monkeypatch.context() as patch:
            identified(patch, is_known=turn % 3 != 1)
            slot.put(name)
            plan = library.run(tmp_path / "photos")
            slot.put(None)
        assert plan.remove == () and plan.kept == (0 if turn == 0 else 2 if name == "B" else 3)
        assert turn < 2 or library.embedded == []


def test_failures_on_the_drive_that_is_away_are_not_read_again(tmp_path, library, slot, knows):
    for name, files in {"A": ["1.jpg", "2.jpg"], "B": ["7.jpg", "8.jpg"]}.items():
        fill(slot, name, *files)
        (slot.store(name) / f"bad{name}.jpg").write_text("broken")
    for turn, name in enumerate("ABAB"):
        slot.put(name)
        plan = library.run(tmp_path / "photos")
        assert plan.forget == () and (turn < 2 or plan.still_failing == 1)


def test_what_is_remembered_does_not_grow_with_the_turns(tmp_path, library, slot, knows):
    fill(slot, "A", "1.jpg")
    fill(slot, "B", "7.jpg")
    for _ in range(4):
        for name in ("A", "B", None):
            slot.put(name)
            library.run(tmp_path / "photos")
    assert set(library.manifest.devices) == {str(tmp_path / "photos"), str(slot.mount_point)}
    assert len(library.manifest.devices[str(slot.mount_point)]) <= 3
    assert len(library.manifest.devices[str(tmp_path / "photos")]) == 1


def test_what_is_forgotten_is_remembered_no_more(tmp_path, library, slot, knows):
    fill(slot, "A", "1.jpg")
    fill(slot, "B", "7.jpg", "8.jpg")
    for name in "AB":
        slot.put(name)
        library.run(tmp_path / "photos")
    assert len(library.run(tmp_path / "photos", forget=True).remove) == 1
    assert library.run(tmp_path / "photos").kept == 0
    assert len(library.manifest.devices[str(slot.mount_point)]) == 1


def test_other_roots_keep_what_is_remembered_of_them(tmp_path, library, slot, knows):
    fill(slot, "A", "1.jpg")
    slot.put("A")
    library.run(tmp_path / "photos")
    before = library.manifest.devices
    write(tmp_path / "more", "2.jpg")
    library.run(tmp_path / "more")
    assert library.manifest.devices.items() > before.items()
    library.remove(tmp_path / "photos")
    library.run(tmp_path / "more")
    assert set(library.manifest.devices) == {str(tmp_path / "more")}


def test_a_drive_of_an_older_collection_is_kept_when_its_folder_goes_after_it_was_emptied(
    tmp_path, library, slot, knows
):
    """The older version remembered no mount points."""
    fill(slot, "A", "1.jpg", "x/2.jpg")
    slot.put("A")
    library.run(tmp_path / "photos")
    library.manifest.devices, library.manifest.mounts = {}, ()
    slot.put(None)
    assert kept(library.run(tmp_path / "photos")) == [("card", 2, Absence.EMPTIED)]
    slot.mount_point.rmdir()
    for _ in range(2):
        assert kept(library.run(tmp_path / "photos")) == [("card", 2, Absence.EMPTIED)]
    slot.mount_point.mkdir()
    slot.put("A")
    plan = library.run(tmp_path / "photos")
    assert (plan.unchanged, plan.kept, library.embedded) == (3, 0, [])
