"""Which files are found, and what is planned for them."""

from __future__ import annotations

import os

import pytest

from indexes.rows import Failure, Row, failures_table, rows_table
from retrieval.indexing.listing import File, Listing, list_images
from retrieval.indexing.plan import Encoding, Gone, Plan, make_plan

ROOT = b"/photos"


def names(folder, *exclude):
    listing = list_images([os.fsencode(folder)], exclude)
    return [os.path.relpath(os.fsdecode(file.path), folder) for file in listing.files]


def touch(folder, *relative):
    for name in relative:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_images_are_found_by_ending_in_either_case(tmp_path):
    touch(tmp_path, "a.JPG", "b.jpeg", "c.HeIc", "sub/d.webp", "e.txt", "f", "jpg", "g.jpg.part")
    assert names(tmp_path) == ["a.JPG", "b.jpeg", "c.HeIc", "sub/d.webp"]


def test_hidden_files_and_folders_are_skipped(tmp_path):
    touch(tmp_path, "a.jpg", "._a.jpg", ".b.jpg", ".thumbnails/c.jpg", "d/.e/f.jpg")
    assert names(tmp_path) == ["a.jpg"]


def test_a_hidden_folder_is_indexed_when_it_is_asked_for(tmp_path):
    touch(tmp_path, ".private/a.jpg")
    assert names(tmp_path / ".private") == ["a.jpg"]


def test_loops_of_links_end(tmp_path):
    touch(tmp_path, "a/b/c.jpg")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    assert names(tmp_path) == ["a/b/c.jpg", "self.jpg"]


def test_linked_folders_are_followed_once(tmp_path):
    touch(tmp_path, "elsewhere/a.jpg", "root/b.jpg")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "second").symlink_to(tmp_path / "elsewhere")
    assert len(names(tmp_path / "root")) == 2


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(tmp_path) == []


def test_excluded_names_and_paths_are_skipped(tmp_path):
    touch(tmp_path, "a.jpg", "b.png", "trash/c.jpg", "keep/trash/d.jpg", "keep/e.jpg")
    assert names(tmp_path, "*.png") == ["a.jpg", "keep/e.jpg", "keep/trash/d.jpg", "trash/c.jpg"]
    assert names(tmp_path, "trash") == ["a.jpg", "b.png", "keep/e.jpg"]
    assert names(tmp_path, "keep/trash/") == ["a.jpg", "b.png", "keep/e.jpg", "trash/c.jpg"]


def test_odd_names_are_found(tmp_path):
    for name in (b"new\nline.jpg", "häuschen 🏠.jpg".encode(), b"\xff\xfe.jpg"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"x")
    assert len(names(tmp_path)) == 3


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    real = os.scandir

    def scandir(path):
        if path.endswith(b"locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_images([os.fsencode(tmp_path)])
    assert [file.path for file in listing.files] == [os.fsencode(tmp_path / "a.jpg")]
    assert listing.unlisted == ((os.fsencode(tmp_path / "locked"), "Permission denied"),)


# What is planned. Files are made up: a path, and numbers for size, time and content.


def file(name, size=10, mtime=1, ctime=1):
    return File(ROOT + b"/" + name, size, mtime, ctime)


def row(id, name, size=10, mtime=1, content=b"h"):
    return Row(id, ROOT + b"/" + name, size, mtime, content, 4, 3, None)


def failure(id, name, size=10, mtime=1, ctime=1, pixels=0):
    return Failure(id, ROOT + b"/" + name, size, mtime, ctime, pixels, "is damaged")


def plan(files, rows=(), failures=(), contents=None, unlisted=(), roots=(ROOT,), **settings) -> Plan:
    contents = contents or {}

    def content_hash(path):
        assert path in contents, f"{path} was read without need"
        return contents[path]

    table = rows_table(list(rows))
    table = table.append_column("position", [list(range(len(table)))])
    listing = Listing(tuple(files), tuple(unlisted))
    return make_plan(listing, roots, table, failures_table(list(failures)), content_hash, **settings)


def test_new_files_are_added():
    assert plan([file(b"a")]) == Plan(add=(Encoding(file(b"a")),))


def test_unchanged_files_are_not_read():
    assert plan([file(b"a")], [row(1, b"a")]) == Plan(unchanged=1)


@pytest.mark.parametrize("changed", [{"size": 11}, {"mtime": 2}])
def test_changed_files_are_encoded_again(changed):
    now = file(b"a", **changed)
    assert plan([now], [row(1, b"a")], contents={now.path: b"new"}).reencode == (Encoding(now, 1, changed=True),)


def test_a_touched_file_keeps_its_embedding():
    now = file(b"a", mtime=2)
    found = plan([now], [row(1, b"a")], contents={now.path: b"h"})
    assert [(rename.replaces, rename.file) for rename in found.rename] == [(1, now)]
    assert not found.reencode and not found.remove


def test_a_moved_file_keeps_its_embedding():
    now = file(b"b")
    found = plan([now], [row(7, b"a")], contents={now.path: b"h"})
    assert [(rename.replaces, rename.position, rename.old) for rename in found.rename] == [(7, 0, ROOT + b"/a")]
    assert not found.add and not found.remove


def test_of_two_copies_moved_each_takes_one_row():
    files = [file(b"c"), file(b"d")]
    found = plan(files, [row(1, b"a"), row(2, b"b")], contents={each.path: b"h" for each in files})
    assert sorted(rename.replaces for rename in found.rename) == [1, 2]


def test_a_copy_whose_original_stays_is_new():
    found = plan([file(b"a"), file(b"b")], [row(1, b"a")])
    assert found.add == (Encoding(file(b"b")),) and not found.rename


def test_gone_files_are_removed():
    assert plan([file(b"b")], [row(1, b"a", size=99), row(2, b"b")]).remove == (Gone(1, ROOT + b"/a"),)


def test_files_outside_the_folders_stay():
    found = plan([], [row(1, b"a")], roots=(b"/photos-2",))
    assert found == Plan()


def test_files_in_a_folder_that_could_not_be_listed_stay():
    found = plan([], [row(1, b"sub/a"), row(2, b"b")], unlisted=[(ROOT + b"/sub", "Permission denied")])
    assert found.remove == (Gone(2, ROOT + b"/b"),)


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
