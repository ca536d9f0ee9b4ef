"""What is planned for files that were listed. They are made up: a path, and numbers for size, times and content."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from indexes.rows import Failure, failures_table
from retrieval.indexing.known import Known
from retrieval.indexing.listing import File, Listing
from retrieval.indexing.places import Absence
from retrieval.indexing.plan import Encoding, Gone, Kept, Plan, make_plan

ROOT = b"/photos"
ROW_TYPES = pa.schema(
    {
        "position": pa.int64(),
        "id": pa.int64(),
        "path": pa.binary(),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "ctime_ns": pa.int64(),
        "content_hash": pa.binary(),
    }
)


def file(name, size=10, mtime=1, ctime=1):
    return File(ROOT + b"/" + name, size, mtime, ctime)


def row(id, name, size=10, mtime=1, content=b"h", ctime=1):
    return {
        "id": id,
        "path": ROOT + b"/" + name,
        "size": size,
        "mtime_ns": mtime,
        "ctime_ns": ctime,
        "content_hash": content,
    }


def failure(id, name, size=10, mtime=1, ctime=1, pixels=0):
    return Failure(id, ROOT + b"/" + name, size, mtime, ctime, pixels, "is damaged")


def table(rows):
    columns = {name: [item[name] for item in rows] for name in ROW_TYPES.names if name != "position"}
    return pa.table({"position": list(range(len(rows))), **columns}, ROW_TYPES)


def plan(
    files=(),
    rows=(),
    failures=(),
    contents=None,
    *,
    roots=(ROOT,),
    existing=(),
    removed=(),
    indexed=(),
    mounts_before=(),
    listed=None,
    **settings,
) -> Plan:
    """contents: of files that may be read. existing: paths outside the listing. listed: what else
    the listing says."""
    contents = contents or {}

    def content_hash(path):
        assert path in contents, f"{path} was read without need"
        return contents[path]

    listed = {"unlisted": ()} | (listed or {})
    listing = Listing(tuple(sorted(files, key=lambda file: file.path)), **listed)
    known = Known(table(rows), failures_table(list(failures)), np.array(removed, np.int64), indexed, mounts_before)
    return make_plan(listing, roots, known, content_hash, lambda path: path not in existing, **settings)


def test_new_files_are_added():
    assert plan([file(b"a")]) == Plan(add=(Encoding(file(b"a")),))


def test_unchanged_files_are_not_read():
    assert plan([file(b"a")], [row(1, b"a")]) == Plan(unchanged=1)


@pytest.mark.parametrize("changed", [{"size": 11}, {"mtime": 2}, {"ctime": 2}, {"mtime": 2, "ctime": 2}])
def test_changed_files_are_encoded_again(changed):
    now = file(b"a", **changed)
    assert plan([now], [row(1, b"a")], contents={now.path: b"new"}).reencode == (
        Encoding(now, 1, changed=True, may_be_known="size" not in changed),
    )


@pytest.mark.parametrize("changed", [{"mtime": 2}, {"ctime": 2}, {"mtime": 2, "ctime": 2}])
def test_a_touched_file_keeps_its_embedding_and_gets_its_new_times(changed):
    now = file(b"a", **changed)
    outcome = plan([now], [row(1, b"a")], contents={now.path: b"h"})
    assert [(touch.replaces, touch.position, touch.file, touch.old) for touch in outcome.touch] == [
        (1, 0, now, now.path)
    ]
    assert not outcome.reencode and not outcome.remove and not outcome.rename


def test_a_time_of_change_that_is_not_known_is_not_compared():
    assert plan([file(b"a", ctime=5)], [row(1, b"a", ctime=0)]) == Plan(unchanged=1)


def test_a_changed_file_that_cannot_be_read_is_left_to_the_reading():
    now = file(b"a", ctime=2)
    assert [encoding.file for encoding in plan([now], [row(1, b"a")], contents={now.path: None}).reencode] == [now]


def test_a_moved_file_keeps_its_embedding():
    now = file(b"b")
    outcome = plan([now], [row(7, b"a")], contents={now.path: b"h"})
    assert [(rename.replaces, rename.position, rename.old) for rename in outcome.rename] == [(7, 0, ROOT + b"/a")]
    assert not outcome.add and not outcome.remove


def test_of_two_copies_moved_each_takes_one_row():
    files = [file(b"c"), file(b"d")]
    outcome = plan(files, [row(1, b"a"), row(2, b"b")], contents={each.path: b"h" for each in files})
    assert sorted(rename.replaces for rename in outcome.rename) == [1, 2]


def test_a_copy_whose_original_stays_is_new_and_may_be_known():
    outcome = plan([file(b"a"), file(b"b")], [row(1, b"a")])
    assert outcome.add == (Encoding(file(b"b"), may_be_known=True),) and not outcome.rename


def test_only_a_file_of_the_size_of_another_may_be_known():
    """Of a row that is there, one that was removed, another new file, and of none."""
    files = [file(b"a"), file(b"b"), file(b"c", size=77), file(b"d", size=5), file(b"e", size=5), file(b"f", size=6)]
    outcome = plan(files, [row(1, b"a")], removed=[77])
    assert {encoding.file.path[-1:]: encoding.may_be_known for encoding in outcome.add} == {
        b"b": True,
        b"c": True,
        b"d": True,
        b"e": True,
        b"f": False,
    }


def test_swapped_names_are_known_content():
    files = [file(b"a", mtime=7), file(b"b", mtime=8)]
    contents = {files[0].path: b"of b", files[1].path: b"of a"}
    outcome = plan(files, [row(1, b"a", content=b"of a"), row(2, b"b", content=b"of b")], contents=contents)
    assert [(encoding.replaces, encoding.may_be_known) for encoding in outcome.reencode] == [(1, True), (2, True)]


def test_of_one_row_and_two_copies_one_is_moved_and_the_other_may_be_known():
    files = [file(b"c"), file(b"d")]
    outcome = plan(files, [row(1, b"a")], contents=dict.fromkeys([each.path for each in files], b"h"))
    assert [rename.file for rename in outcome.rename] == [files[0]]
    assert outcome.add == (Encoding(files[1], may_be_known=True),)


def test_a_file_that_failed_before_is_read_again_rather_than_moved():
    now = file(b"b", mtime=2)
    outcome = plan([now], [row(1, b"a")], failures=[failure(5, b"b")])
    assert outcome.add == (Encoding(now, 5, may_be_known=True),) and outcome.remove == (Gone(1, ROOT + b"/a"),)


def test_gone_files_are_removed():
    assert plan([file(b"b")], [row(1, b"a", size=99), row(2, b"b")]).remove == (Gone(1, ROOT + b"/a"),)


def test_files_outside_the_folders_stay():
    outcome = plan([], [row(1, b"a")], roots=(b"/photos-2",))
    assert outcome == Plan()


def test_files_in_a_folder_that_could_not_be_listed_stay():
    listed = {"unlisted": ((ROOT + b"/sub", "Permission denied"),)}
    outcome = plan([], [row(1, b"sub/a"), row(2, b"b")], listed=listed)
    assert outcome.remove == (Gone(2, ROOT + b"/b"),)


def test_a_failure_is_not_tried_again():
    assert plan([file(b"a")], failures=[failure(1, b"a")]) == Plan(still_failing=1)


@pytest.mark.parametrize("changed", [{"size": 11}, {"mtime": 2}, {"ctime": 2}])
def test_a_failure_is_tried_again_when_the_file_changes(changed):
    now = file(b"a", **changed)
    assert plan([now], failures=[failure(1, b"a")]).add == (Encoding(now, 1),)


def test_a_failure_is_tried_again_when_asked():
    assert plan([file(b"a")], failures=[failure(1, b"a")], retry_failed=True).add == (Encoding(file(b"a"), 1),)


def test_too_large_an_image_is_tried_again_when_the_limit_allows():
    failures = [failure(1, b"a", pixels=500)]
    assert plan([file(b"a")], failures=failures, max_pixels=499).still_failing == 1
    assert plan([file(b"a")], failures=failures, max_pixels=500).add == (Encoding(file(b"a"), 1),)


def test_a_failure_whose_file_is_gone_is_forgotten():
    assert plan([], failures=[failure(1, b"a")]).forget == (Gone(1, ROOT + b"/a"),)


# Content at a new path, whatever folder it was in.


def elsewhere(id, path, **values):
    return row(id, b"", **values) | {"path": path}


def test_content_of_another_folder_that_is_gone_is_moved():
    """`mv /old /photos`."""
    files = [file(b"1"), file(b"sub/2", size=20)]
    rows = [elsewhere(1, b"/old/1", content=b"one"), elsewhere(2, b"/old/sub/2", size=20, content=b"two")]
    outcome = plan(files, rows, contents={files[0].path: b"one", files[1].path: b"two"})
    assert [(rename.old, rename.file.path) for rename in outcome.rename] == [
        (b"/old/1", b"/photos/1"),
        (b"/old/sub/2", b"/photos/sub/2"),
    ]
    assert not outcome.add and not outcome.remove


def test_content_of_another_folder_that_is_there_is_copied_and_not_read_twice():
    outcome = plan([file(b"1")], [elsewhere(1, b"/old/1")], existing={b"/old/1"})
    assert outcome == Plan(add=(Encoding(file(b"1"), may_be_known=True),))


def test_a_gone_row_of_the_folder_is_taken_before_one_elsewhere():
    outcome = plan([file(b"1")], [elsewhere(1, b"/old/1"), row(2, b"2")], contents={b"/photos/1": b"h"})
    assert [rename.replaces for rename in outcome.rename] == [2]
    assert not outcome.remove


def test_many_files_of_one_size_are_told_apart_by_content():
    """Uncompressed pictures of one camera all have the same size."""
    count = 200
    files = [file(b"new%d" % index) for index in range(count)]
    rows = [elsewhere(index + 1, b"/old/%d" % index, content=b"%d" % index) for index in range(count)]
    contents = {item.path: b"%d" % (count - 1 - index) for index, item in enumerate(files)}
    outcome = plan(files, rows, contents=contents)
    assert {rename.file.path: rename.replaces for rename in outcome.rename} == {
        path: int(content) + 1 for path, content in contents.items()
    }


# Folders that are empty or not mounted.


def visited(*names, **more):
    return {"visited": frozenset({ROOT, *(ROOT + b"/" + name for name in names)})} | more


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
    """A folder of thumbnails that was asked for by name, in one that was too."""
    thumbnails = b"/photos/@eaDir"
    listed = visited(b"@eaDir", b"@eaDir/empty", left_out=frozenset({b"/photos/@eaDir/private"}))
    rows = [row(1, b"@eaDir/empty/a"), row(2, b"@eaDir/private/b")]
    outcome = plan([file(b"@eaDir/c", size=3)], rows, roots=(ROOT, thumbnails), listed=listed)
    assert outcome.kept_in == (Kept(b"/photos/@eaDir/empty", 1, Absence.EMPTIED),)
    assert outcome.remove == (Gone(2, b"/photos/@eaDir/private/b"),)


@pytest.mark.parametrize("number", [2**63, 2**70, -(2**64), 13_569_465_600 * 10**9])
def test_numbers_of_the_file_system_beyond_64_bits_are_clamped(number):
    now = File(b"/photos/a", number, number, number)
    assert all(-(2**63) <= value < 2**63 for value in (now.size, now.mtime_ns, now.ctime_ns))
    assert plan([now]).add == (Encoding(now),)
    again = row(1, b"a", size=now.size, mtime=now.mtime_ns, ctime=now.ctime_ns)
    assert plan([File(b"/photos/a", number, number, number)], [again]).unchanged == 1
