"""gitignore patterns and ignore files: what they leave out of a listing."""

from __future__ import annotations

import errno
import os

import pytest

from retrieval.indexing.exclusion import Rules
from retrieval.indexing.listing import list_images
from tests.retrieval.indexing.listings import listing_of, names, relative, touch, write


def test_excluded_names_and_paths_are_skipped(tmp_path):
    touch(tmp_path, "a.jpg", "b.png", "trash/c.jpg", "keep/trash/d.jpg", "keep/e.jpg")
    assert names(tmp_path, "*.png") == ["a.jpg", "keep/e.jpg", "keep/trash/d.jpg", "trash/c.jpg"]
    assert names(tmp_path, "trash") == ["a.jpg", "b.png", "keep/e.jpg"]
    assert names(tmp_path, "keep/trash/") == ["a.jpg", "b.png", "keep/e.jpg", "trash/c.jpg"]


@pytest.mark.parametrize(
    ("excludes", "expected"),
    [
        (["**/coins.png"], ["a/b/x.jpg", "a/x.jpg", "b/coins.jpg", "x.jpg"]),
        (["coins.*"], ["a/b/x.jpg", "a/x.jpg", "x.jpg"]),
        (["/x.jpg"], ["a/b/coins.png", "a/b/x.jpg", "a/x.jpg", "b/coins.jpg", "coins.png"]),
        (["a/x.jpg"], ["a/b/coins.png", "a/b/x.jpg", "b/coins.jpg", "coins.png", "x.jpg"]),
        (["b/"], ["a/x.jpg", "coins.png", "x.jpg"]),
        (["/b"], ["a/b/coins.png", "a/b/x.jpg", "a/x.jpg", "coins.png", "x.jpg"]),
        (["a/**/coins.png"], ["a/b/x.jpg", "a/x.jpg", "b/coins.jpg", "coins.png", "x.jpg"]),
        (["?.jpg", "!/x.jpg"], ["a/b/coins.png", "b/coins.jpg", "coins.png", "x.jpg"]),
        (["*", "!*/", "!*.png"], ["a/b/coins.png", "coins.png"]),
        (["b", "!a/"], ["a/x.jpg", "coins.png", "x.jpg"]),
        (["a", "!a/x.jpg"], ["b/coins.jpg", "coins.png", "x.jpg"]),
        (["/a/*", "!/a/x.jpg"], ["a/x.jpg", "b/coins.jpg", "coins.png", "x.jpg"]),
        (["*.[jJ]pg"], ["a/b/coins.png", "coins.png"]),
    ],
)
def test_patterns_leave_out_what_git_would(tmp_path, excludes, expected):
    touch(tmp_path, "coins.png", "x.jpg", "a/x.jpg", "a/b/x.jpg", "a/b/coins.png", "b/coins.jpg")
    assert names(tmp_path, *excludes) == expected


def test_patterns_are_relative_to_each_root(tmp_path):
    touch(tmp_path, "one/a.jpg", "one/sub/a.jpg", "two/a.jpg")
    roots = [os.fsencode(tmp_path / name) for name in ("one", "two")]
    assert relative((file.path for file in list_images(roots, Rules(("/a.jpg",))).files), tmp_path) == ["one/sub/a.jpg"]


def test_patterns_hold_for_names_that_are_odd(tmp_path):
    odd = [b"a\nb/trash/x.jpg", b"trash\n/x.jpg", b"\xff\xfe/trash/x.jpg", b"\xff\xfe.jpg", b"x.jpg\n.jpg"]
    for name in odd:
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    left = {os.path.relpath(file.path, os.fsencode(tmp_path)) for file in listing_of(tmp_path, "trash/", "x.jpg").files}
    assert left == {b"\xff\xfe.jpg", b"x.jpg\n.jpg"}
    assert names(tmp_path, "*\udcfe*", "*\n*") == []


def test_a_pattern_on_the_command_line_is_no_comment(tmp_path):
    touch(tmp_path, "#old/a.jpg", "b.jpg")
    assert names(tmp_path, "#old") == ["b.jpg"]


@pytest.mark.parametrize("pattern", ["", "!", "/", "  "])
def test_what_is_no_pattern_is_refused(tmp_path, pattern):
    with pytest.raises(ValueError, match="^" + pattern):
        listing_of(tmp_path, "*.png", pattern)


def test_patterns_that_match_nothing_are_told(tmp_path):
    touch(tmp_path, "a.jpg", "b/c.jpg", "notes.txt", ".hidden/d.jpg", "@eaDir/e.jpg", "f.svg")
    excludes = ["foo*", "a.jpg", "*.txt", ".hidden", "@eaDir", "b/", "b/c.jpg", "!nothing", "*.svg", "*.jpg"]
    assert listing_of(tmp_path, *excludes).unmatched == ("foo*", "b/c.jpg", "!nothing")


def test_a_pattern_that_another_overrules_has_matched(tmp_path):
    touch(tmp_path, "a.jpg")
    assert listing_of(tmp_path, "a.*", "*.jpg").unmatched == ()


def test_linked_folders_are_left_out_as_folders(tmp_path):
    touch(tmp_path, "elsewhere/a.jpg", "root/b.jpg")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "@eaDir").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "root", "link/") == ["b.jpg"]
    listing = listing_of(tmp_path / "root", "link/")
    assert relative(listing.left_out, tmp_path / "root") == ["@eaDir", "link"]


def test_ignore_files_hold_below_their_folder_and_the_inner_one_decides(tmp_path):
    touch(tmp_path, "a.png", "b.jpg", "in/a.png", "in/b.jpg", "in/deep/a.png", "in/deep/b.jpg", "other/b.jpg")
    write(tmp_path / ".crosslookignore", "# screenshots", "", "*.png")
    write(tmp_path / "in" / ".crosslookignore", "!a.png", "/b.jpg")
    write(tmp_path / "in" / "deep" / ".crosslookignore", "*")
    assert names(tmp_path) == ["b.jpg", "in/a.png", "other/b.jpg"]
    assert names(tmp_path, "!in/deep/a.png") == ["b.jpg", "in/a.png", "in/deep/a.png", "other/b.jpg"]
    assert names(tmp_path, "a.png") == ["b.jpg", "other/b.jpg"]


def test_an_ignore_file_of_a_folder_around_the_root_holds_too(tmp_path):
    touch(tmp_path, "photos/2019/a.jpg", "photos/2019/private/b.jpg")
    write(tmp_path / ".crosslookignore", "photos/2019/private", "photos/")
    assert names(tmp_path / "photos" / "2019") == ["a.jpg"]


def test_ignore_files_are_read_as_they_are_written_anywhere(tmp_path):
    touch(tmp_path, "a.png", "ä.jpg", "x y.jpg", "b.jpg", "#c.jpg")
    (tmp_path / ".crosslookignore").write_bytes("\ufeff*.png\r\nä.*\r\nx\\ y.jpg\r\n\\#c.jpg\r\n".encode())
    assert names(tmp_path) == ["b.jpg"]


def test_a_line_of_an_ignore_file_that_is_no_pattern_is_told_and_the_others_hold(tmp_path):
    touch(tmp_path, "a.png", "b.jpg")
    write(tmp_path / ".crosslookignore", "!", "*.png")
    listing = listing_of(tmp_path)
    assert len(listing.files) == 1
    assert listing.notes == (f"{tmp_path / '.crosslookignore'}: '!' is not a gitignore pattern",)


def test_a_folder_whose_ignore_file_cannot_be_read_is_not_looked_into(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "private/b.jpg")
    write(tmp_path / "private" / ".crosslookignore", "*")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("retrieval.indexing.exclusion.read_ignore_file", refuse)
    listing = listing_of(tmp_path)
    assert [os.path.basename(file.path) for file in listing.files] == [b"a.jpg"]
    ((path, reason),) = listing.unlisted
    assert path == os.fsencode(tmp_path / "private") and reason.endswith(
        ".crosslookignore cannot be read: Permission denied"
    )


def test_an_ignore_file_without_end_leaves_out_all(tmp_path):
    touch(tmp_path, "a.jpg", "b/c.jpg")
    (tmp_path / "b" / ".crosslookignore").write_text("x\n" * 600_000)
    listing = listing_of(tmp_path)
    assert len(listing.files) == 1 and "has more than 1 MB" in listing.unlisted[0][1]


def test_an_ignore_file_that_is_none_is_passed_over(tmp_path):
    touch(tmp_path, "a.jpg", "b/c.jpg")
    (tmp_path / ".crosslookignore").mkdir()
    os.mkfifo(tmp_path / "b" / ".crosslookignore")
    assert names(tmp_path) == ["a.jpg", "b/c.jpg"]


def test_nomedia_leaves_out_its_folder_and_all_below(tmp_path):
    touch(tmp_path, "a.jpg", "b/.nomedia", "b/c.jpg", "b/d/e.jpg", "f/.nomedia.txt", "f/g.jpg")
    assert names(tmp_path) == ["a.jpg", "f/g.jpg"]
    assert relative(listing_of(tmp_path).left_out, tmp_path) == ["b"]
    assert names(tmp_path / "b") == []
    assert names(tmp_path, include_all=True) == ["a.jpg", "b/c.jpg", "b/d/e.jpg", "f/g.jpg"]
