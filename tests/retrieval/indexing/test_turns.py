"""Drives that are in one place by turns, run after run: nothing of the others is lost, and a deletion is a deletion."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import pytest

from retrieval.indexing.places import Absence
from tests.drives import Drive, identified
from tests.retrieval.indexing.test_survey import Library, write


@pytest.fixture
def library():
    return Library()


@pytest.fixture(params=[True, False], ids=["identities", "no identities"])
def knows(request, monkeypatch):
    """Both kinds of file system: of which something tells which one it is, and of which nothing does."""
    identified(monkeypatch, request.param)
    return request.param


@pytest.fixture
def known(monkeypatch):
    identified(monkeypatch)


class Slot:
    """A place for several drives, of which one is in at a time."""

    def __init__(self, stack, folder, place, *names):
        self.place = place
        self._in = None
        self.drives = {
            name: stack.enter_context(Drive(folder / f"store-{name}", place, number))
            for number, name in enumerate(names)
        }

    def put(self, name):
        if self._in is not None:
            self.drives[self._in].detach()
        self._in = name
        if name is not None:
            self.drives[name].attach()

    def store(self, name):
        return self.drives[name].store


@pytest.fixture
def slot(tmp_path):
    """Of `photos`, with two cards for `photos/card`."""
    with ExitStack() as stack:
        slot = Slot(stack, tmp_path, tmp_path / "photos" / "card", "A", "B")
        write(tmp_path / "photos", "own.jpg")
        yield slot
        slot.put(None)


def fill(slot, name, *files):
    write(slot.store(name), *files, of=name)


def kept(plan):
    return [(item.folder.rpartition(b"/")[2].decode(), item.images, item.why) for item in plan.kept_in]


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
    (slot.place / "1.jpg").unlink()
    plan = library.run(tmp_path / "photos")
    assert [gone.path.rpartition(b"/")[2] for gone in plan.remove] == [b"1.jpg"]
    assert kept(plan) == [("card", 2, Absence.REPLACED)]
    slot.put("B")
    (slot.place / "8.jpg").unlink()
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
    write(slot.place, "2.jpg", of="A")
    library.run(tmp_path / "photos")
    slot.put("B")
    write(slot.place, "8.jpg", of="B")
    assert kept(library.run(tmp_path / "photos")) == [("card", 2, Absence.REPLACED)]
    slot.put("A")
    assert kept(library.run(tmp_path / "photos")) == [("card", 2, Absence.REPLACED)]
    (slot.place / "2.jpg").unlink()
    plan = library.run(tmp_path / "photos")
    assert len(plan.remove) == 1 and kept(plan) == [("card", 2, Absence.REPLACED)]


def test_three_drives_and_none_in_turns_lose_nothing(tmp_path, library, knows):
    photos = tmp_path / "photos"
    write(photos, "own.jpg")
    with ExitStack() as stack:
        slot = Slot(stack, tmp_path, photos / "card", "A", "B", "C")
        for name, files in {"A": ["1.jpg"], "B": ["2.jpg", "3.jpg"], "C": ["4.jpg", "5.jpg", "6.jpg"]}.items():
            fill(slot, name, *files)
        for name in "ABC":
            slot.put(name)
            library.run(photos)
        for name in ["B", None, "A", "C", None, "B"]:
            slot.put(name)
            plan = library.run(photos)
            assert (plan.remove, plan.add, library.embedded) == ((), (), [])
            assert plan.kept == 6 - len({"A": "1", "B": "12", "C": "123"}.get(name, ""))
        slot.put(None)


@pytest.mark.parametrize("others", [["1.jpg", "2.jpg", "3.jpg", "4.jpg"], ["1.jpg", "2.jpg"], ["1.jpg", "5.jpg"]])
def test_cards_with_the_same_names_replace_each_other_and_are_embedded_once(tmp_path, library, slot, knows, others):
    """A path has one row; what has no file of its name on the other card is kept."""
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
    write(slot.place, *names)
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
    write(slot.place, "1.jpg", "2.jpg", "3.jpg")
    library.run(tmp_path / "photos")
    shutil.copy2(slot.place / "1.jpg", slot.store("A"))
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
        plan = library.run(tmp_path / "usb")  # whichever folder is asked for
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
    (slot.place / "1.jpg").unlink()  # and its identity is the one remembered from now on
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
        (slot.place / name).unlink()
    write(slot.place, "3.jpg", of="A")
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
    assert set(library.manifest.devices) == {str(tmp_path / "photos"), str(slot.place)}
    assert len(library.manifest.devices[str(slot.place)]) <= 3
    assert len(library.manifest.devices[str(tmp_path / "photos")]) == 1


def test_what_is_forgotten_is_remembered_no_more(tmp_path, library, slot, knows):
    fill(slot, "A", "1.jpg")
    fill(slot, "B", "7.jpg", "8.jpg")
    for name in "AB":
        slot.put(name)
        library.run(tmp_path / "photos")
    assert len(library.run(tmp_path / "photos", forget=True).remove) == 1
    assert library.run(tmp_path / "photos").kept == 0
    assert len(library.manifest.devices[str(slot.place)]) == 1


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


# Folders of which images are kept.


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
    slot.place.rmdir()
    for _ in range(2):
        assert kept(library.run(tmp_path / "photos")) == [("card", 2, Absence.EMPTIED)]
    slot.place.mkdir()
    slot.put("A")
    plan = library.run(tmp_path / "photos")
    assert (plan.unchanged, plan.kept, library.embedded) == (3, 0, [])


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
