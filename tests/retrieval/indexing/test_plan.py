"""What is planned for files that were listed."""

from __future__ import annotations

import pytest

from retrieval.indexing.files import File
from retrieval.indexing.plan import Encoding, Gone, Plan
from tests.retrieval.indexing.plans import ROOT, failure, file, plan, row


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
    outcome = plan(files, [row(1, b"a"), row(2, b"b")], contents={item.path: b"h" for item in files})
    assert sorted(rename.replaces for rename in outcome.rename) == [1, 2]


def test_a_copy_whose_original_stays_is_new_and_may_be_known():
    outcome = plan([file(b"a"), file(b"b")], [row(1, b"a")])
    assert outcome.add == (Encoding(file(b"b"), may_be_known=True),) and not outcome.rename


def test_only_a_file_of_the_size_of_another_may_be_known():
    """The size is that of a row, of a removed row, of another new file, and of none of these."""
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
    outcome = plan(files, [row(1, b"a")], contents=dict.fromkeys([item.path for item in files], b"h"))
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


@pytest.mark.parametrize("number", [2**63, 2**70, -(2**64), 13_569_465_600 * 10**9])
def test_numbers_of_the_file_system_beyond_64_bits_are_clamped(number):
    now = File(b"/photos/a", number, number, number)
    assert all(-(2**63) <= value < 2**63 for value in (now.size, now.mtime_ns, now.ctime_ns))
    assert plan([now]).add == (Encoding(now),)
    again = row(1, b"a", size=now.size, mtime=now.mtime_ns, ctime=now.ctime_ns)
    assert plan([File(b"/photos/a", number, number, number)], [again]).unchanged == 1
