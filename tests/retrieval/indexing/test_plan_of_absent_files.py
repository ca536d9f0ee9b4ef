"""What is planned for known images that were not listed: their folder is empty, not mounted, left out, or gone."""

from __future__ import annotations

import pytest

from retrieval.indexing.fates import Absence
from retrieval.indexing.files import File
from retrieval.indexing.plan import Gone, Kept
from tests.retrieval.indexing.plans import ROOT, failure, file, plan, row, visited


@pytest.mark.parametrize(
    ("rows", "existing", "kept"),
    [
        ([row(1, b"usb/a"), row(2, b"usb/b")], [b"usb"], [(b"usb", 2)]),
        ([row(1, b"usb/x/a"), row(2, b"usb/y/z/b")], [b"usb"], [(b"usb", 2)]),
        ([row(1, b"usb/x/a"), row(2, b"usb/y/b")], [b"usb", b"usb/x", b"usb/y"], [(b"usb", 2)]),
        ([row(1, b"2019/05/a"), row(2, b"2020/b")], [b"2019", b"2019/05", b"2020"], [(b"2019", 1), (b"2020", 1)]),
    ],
)
def test_an_emptied_folder_is_kept_and_its_topmost_is_named(rows, existing, kept):
    outcome = plan([file(b"other", size=1)], rows, listed=visited(*existing))
    assert outcome.kept_in == tuple(Kept(ROOT + b"/" + name, count, Absence.EMPTIED) for name, count in kept)
    assert outcome.kept == len(rows) and not outcome.remove


def test_a_deep_folder_is_emptied_where_one_around_it_is_not():
    rows = [row(1, b"2020/may/usb/a", content=b"1"), row(2, b"2020/may/b", content=b"2")]
    outcome = plan([file(b"2020/may/b")], rows, listed=visited(b"2020", b"2020/may", b"2020/may/usb"))
    assert outcome.kept_in == (Kept(b"/photos/2020/may/usb", 1, Absence.EMPTIED),) and outcome.unchanged == 1


def test_a_deleted_folder_is_removed():
    outcome = plan([file(b"other", size=1)], [row(1, b"2019/a"), row(2, b"2019/x/b")], listed=visited())
    assert [gone.id for gone in outcome.remove] == [1, 2] and not outcome.kept


def test_a_deleted_file_beside_others_is_removed():
    outcome = plan([file(b"d/b")], [row(1, b"d/a", size=3), row(2, b"d/b")], listed=visited(b"d"))
    assert outcome.remove == (Gone(1, b"/photos/d/a"),)


@pytest.mark.parametrize("occupied", [b"d", b"d/deeper"])
def test_a_folder_in_which_images_are_left_out_is_not_empty(occupied):
    listed = visited(b"d", b"d/deeper", occupied=frozenset({ROOT + b"/" + occupied}))
    assert plan([file(b"other", size=1)], [row(1, b"d/a")], listed=listed).remove == (Gone(1, b"/photos/d/a"),)


def test_a_folder_with_nothing_but_broken_links_is_empty():
    links = [File(b"/photos/d/link", 5, 1, 1, is_broken_link=True), file(b"other", size=1)]
    outcome = plan(links, [row(1, b"d/a"), row(2, b"d/link")], listed=visited(b"d"))
    assert outcome.kept == 1 and outcome.unchanged == 1


def test_what_is_left_out_is_removed_though_the_folder_holds_nothing_else():
    listed = visited(b"d", left_out=frozenset({b"/photos/d/private"}))
    outcome = plan(
        [file(b"other", size=1)], [row(1, b"d/private/x/a")], failures=[failure(2, b"d/private/b")], listed=listed
    )
    assert outcome.remove == (Gone(1, b"/photos/d/private/x/a"),) and outcome.forget == (
        Gone(2, b"/photos/d/private/b"),
    )


def test_failures_in_a_kept_folder_stay_and_others_are_forgotten():
    failures = [failure(5, b"usb/bad"), failure(6, b"bad"), failure(7, b"moved/bad")]
    files, rows = [file(b"new", size=20)], [row(1, b"usb/a"), row(2, b"moved/b", size=20)]
    outcome = plan(files, rows, failures, {b"/photos/new": b"h"}, listed=visited(b"usb", b"moved"))
    assert [gone.id for gone in outcome.forget] == [6, 7]
    assert outcome.kept_in == (Kept(b"/photos/usb", 1, Absence.EMPTIED),)


def test_images_of_an_emptied_folder_that_are_elsewhere_now_are_moved():
    rows = [row(1, b"in/a", size=20, content=b"1"), row(2, b"in/b", size=30, content=b"2")]
    outcome = plan([file(b"out/a", size=20)], rows, contents={b"/photos/out/a": b"1"}, listed=visited(b"in", b"out"))
    assert [rename.old for rename in outcome.rename] == [b"/photos/in/a"]
    assert outcome.kept_in == (Kept(b"/photos/in", 1, Absence.EMPTIED),)


def test_a_row_that_is_kept_is_taken_after_one_that_would_be_removed():
    rows = [row(1, b"usb/a"), row(2, b"b")]
    outcome = plan([file(b"c")], rows, contents={b"/photos/c": b"h"}, listed=visited(b"usb"))
    assert [rename.replaces for rename in outcome.rename] == [2] and outcome.kept == 1


@pytest.mark.parametrize("names", [(), (b"usb",)])
def test_what_was_a_mount_point_is_kept_whether_its_folder_is_there_or_not(names):
    files = [file(b"other", size=1), *(file(name + b"/shadowed", size=2) for name in names)]
    outcome = plan(files, [row(1, b"usb/x/a")], listed=visited(*names), mounts_before=(b"/photos/usb",))
    assert outcome.kept_in == (Kept(b"/photos/usb", 1, Absence.UNMOUNTED),) and len(outcome.add) == len(files)


def test_a_drive_that_is_mounted_loses_what_was_deleted_on_it():
    listed = visited(b"usb", mounts=frozenset({b"/photos/usb"}))
    rows = [row(1, b"usb/a", size=3), row(2, b"usb/b")]
    outcome = plan([file(b"usb/b")], rows, listed=listed, mounts_before=(b"/photos/usb",))
    assert outcome.remove == (Gone(1, b"/photos/usb/a"),)


def test_another_drive_at_the_same_place_takes_nothing():
    listed = visited(b"usb", mounts=frozenset({b"/photos/usb"}))
    outcome = plan(
        [file(b"usb/x", size=3)],
        [row(1, b"usb/a"), row(2, b"usb/b")],
        failures=[failure(3, b"usb/bad")],
        listed=listed,
        mounts_before=(b"/photos/usb",),
    )
    assert outcome.kept_in == (Kept(b"/photos/usb", 2, Absence.REPLACED),)
    assert len(outcome.add) == 1 and not outcome.forget


def test_a_drive_on_which_all_was_renamed_is_the_same():
    listed = visited(b"usb", mounts=frozenset({b"/photos/usb"}))
    outcome = plan(
        [file(b"usb/x")],
        [row(1, b"usb/a"), row(2, b"usb/b", content=b"other")],
        contents={b"/photos/usb/x": b"h"},
        listed=listed,
        mounts_before=(b"/photos/usb",),
    )
    assert len(outcome.rename) == 1 and outcome.remove == (Gone(2, b"/photos/usb/b"),)


def test_what_is_left_out_on_another_drive_is_removed():
    usb = frozenset({b"/photos/usb"})
    listed = visited(b"usb", mounts=usb, left_out=frozenset({b"/photos/usb/private"}))
    outcome = plan([file(b"usb/x", size=3)], [row(1, b"usb/private/a")], listed=listed, mounts_before=tuple(usb))
    assert outcome.remove == (Gone(1, b"/photos/usb/private/a"),)


def test_a_mount_point_around_the_folder_was_not_looked_at():
    outcome = plan([file(b"b", size=3)], [row(1, b"a")], listed=visited(), mounts_before=(b"/", b"/photos-2"))
    assert outcome.remove == (Gone(1, b"/photos/a"),)


def test_what_is_forgotten_is_not_kept():
    usb, card = b"/photos/usb", b"/photos/card"
    rows = [row(1, b"empty/a"), row(2, b"usb/b"), row(3, b"card/c"), row(4, b"locked/d")]
    listed = visited(b"empty", b"card", mounts=frozenset({card}), unlisted=((b"/photos/locked", "Permission denied"),))
    mounts, failures = (usb, card), [failure(5, b"empty/bad")]
    files = [file(b"card/x", size=3)]
    assert plan(files, rows, failures, listed=listed, mounts_before=mounts).kept == 3
    outcome = plan(files, rows, failures, listed=listed, mounts_before=mounts, forget=True)
    assert [gone.id for gone in outcome.remove] == [1, 2, 3] and outcome.kept == 0 and len(outcome.forget) == 1


def test_an_indexed_folder_that_the_walk_did_not_come_to_stays_while_it_is_there():
    rows, hidden = [row(1, b".hidden/a"), row(2, b".gone/b")], (b"/photos/.hidden", b"/photos/.gone")
    outcome = plan([file(b"c", size=3)], rows, indexed=hidden, existing={b"/photos/.hidden/."}, listed=visited())
    assert outcome.remove == (Gone(2, b"/photos/.gone/b"),)


def test_the_nearest_folder_that_was_visited_or_left_out_decides():
    """A folder of thumbnails that was asked for, inside a folder that was asked for too."""
    thumbnails = b"/photos/@eaDir"
    listed = visited(b"@eaDir", b"@eaDir/empty", left_out=frozenset({b"/photos/@eaDir/private"}))
    rows = [row(1, b"@eaDir/empty/a"), row(2, b"@eaDir/private/b")]
    outcome = plan([file(b"@eaDir/c", size=3)], rows, roots=(ROOT, thumbnails), listed=listed)
    assert outcome.kept_in == (Kept(b"/photos/@eaDir/empty", 1, Absence.EMPTIED),)
    assert outcome.remove == (Gone(2, b"/photos/@eaDir/private/b"),)
