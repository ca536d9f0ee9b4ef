"""What a collection remembers of a run's rules: excludes, and how many pictures are not read."""

from __future__ import annotations

import os

import pytest

from indexes.errors import CrosslookError
from tests.drives import identified
from tests.retrieval.indexing.library import write


@pytest.fixture(autouse=True)
def identities(monkeypatch):
    identified(monkeypatch)


def test_excludes_are_remembered_and_can_be_taken_back(tmp_path, library):
    write(tmp_path, "a.jpg", "b.png", "trash/c.jpg")
    library.run(tmp_path, exclude=("trash",))
    assert library.paths(tmp_path) == ["a.jpg", "b.png"]
    assert library.run(tmp_path).unchanged == 2 and library.manifest.excludes == ("trash",)
    plan = library.run(tmp_path, exclude=("*.png",))
    assert [os.path.basename(gone.path) for gone in plan.remove] == [b"b.png"]
    assert library.manifest.excludes == ("trash", "*.png")
    library.run(tmp_path, no_exclude=("trash",))
    assert library.paths(tmp_path) == ["a.jpg", "trash/c.jpg"] and library.manifest.excludes == ("*.png",)


def test_the_newest_exclude_decides(tmp_path, library):
    write(tmp_path, "a.jpg", "b.jpg")
    library.run(tmp_path, exclude=("a.jpg",))
    library.run(tmp_path, exclude=("!a.jpg",))
    assert library.paths(tmp_path) == ["a.jpg", "b.jpg"]
    library.run(tmp_path, exclude=("a.jpg",))
    assert library.paths(tmp_path) == ["b.jpg"] and library.manifest.excludes == ("!a.jpg", "a.jpg")


def test_what_is_not_remembered_cannot_be_taken_back(tmp_path, library):
    write(tmp_path, "a.jpg")
    with pytest.raises(CrosslookError, match="remembers no exclude 'x' to take back; it remembers none"):
        library.run(tmp_path, no_exclude=("x",))
    library.run(tmp_path, exclude=("b", "c"))
    with pytest.raises(CrosslookError, match="it remembers 'b', 'c'"):
        library.run(tmp_path, no_exclude=("x",))


def test_patterns_that_matched_nothing_are_told_those_remembered_too(tmp_path, library):
    write(tmp_path, "a.jpg", "b.png")
    library.run(tmp_path, exclude=("foo*", "*.png"))
    assert len(library.notes) == 1 and library.notes[0].startswith("--exclude 'foo*' matched nothing")
    library.run(tmp_path)
    assert len(library.notes) == 1 and "matched nothing: `--no-exclude 'foo*'` takes it back" in library.notes[0]


def test_what_is_no_pattern_is_a_clear_error(tmp_path, library):
    write(tmp_path, "a.jpg")
    with pytest.raises(CrosslookError, match="^--exclude '!' is not a gitignore pattern$"):
        library.run(tmp_path, exclude=("!",))


def test_an_image_that_is_left_out_now_leaves_however_that_is_said(tmp_path, library):
    write(tmp_path, "a.jpg", "b/1.jpg", "c/2.jpg", "d/3.jpg", "e/4.jpg", "@eaDir/5.jpg")
    library.run(tmp_path, include_all=True)
    (tmp_path / "b" / ".nomedia").touch()
    (tmp_path / "c" / ".crosslookignore").write_text("*\n")
    (tmp_path / ".crosslookignore").write_text("d/\n")
    plan = library.run(tmp_path, exclude=("e/4.jpg",))
    assert len(plan.remove) == 5 and plan.kept == 0
    assert library.paths(tmp_path) == ["a.jpg"]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [({"exclude": ("*",)}, "every image is excluded"), ({}, "a .nomedia file leaves it out")],
)
def test_a_root_that_is_left_out_altogether_is_told_why(tmp_path, library, rule, reason):
    write(tmp_path, "a.jpg", "sub/b.jpg")
    library.run(tmp_path)
    if not rule:
        (tmp_path / ".nomedia").touch()
    with pytest.raises(CrosslookError, match=f"but 2 were indexed there: {reason}"):
        library.run(tmp_path, **rule)


def test_pictures_that_are_not_read_are_counted_for_each_folder(tmp_path, library):
    write(tmp_path, "one/a.jpg", "one/b.KRA", "two/c.jpg", "two/d.kra", "two/e.xcf")
    first, second = str(tmp_path / "one"), str(tmp_path / "two")
    library.run(first)
    library.run(second)
    assert library.manifest.passed_over == {first: {".kra": 1}, second: {".kra": 1, ".xcf": 1}}
    (tmp_path / "one" / "b.KRA").unlink()
    library.run(first)
    assert library.manifest.passed_over == {second: {".kra": 1, ".xcf": 1}}
    library.run(tmp_path)
    assert library.manifest.passed_over == {str(tmp_path): {".kra": 1, ".xcf": 1}}


def test_a_folder_with_nothing_that_can_be_read_tells_what_it_holds(tmp_path, library):
    write(tmp_path, "a.kra", "b.kra", "c.xcf")
    with pytest.raises(CrosslookError, match=r"no images in .*; passed over: 2 \.kra, 1 \.xcf$"):
        library.run(tmp_path)
