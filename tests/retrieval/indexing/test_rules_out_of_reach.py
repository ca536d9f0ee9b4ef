"""Rules that cannot be read. What they leave out may be private, so nothing there is listed."""

from __future__ import annotations

import errno
import os

import pytest

from tests.retrieval.indexing.listings import listing_of, names, relative, touch, write

IGNORE = ".crosslookignore"


@pytest.fixture
def folder(tmp_path):
    touch(tmp_path, "a.jpg", "private/b.jpg", "private/deep/c.jpg")
    return tmp_path


def failing(monkeypatch, function, target, code):
    real = getattr(os, function)

    def fail(path, **options):
        if os.fsencode(path) == os.fsencode(target):
            raise OSError(code, os.strerror(code), path)
        return real(path, **options)

    monkeypatch.setattr(os, function, fail)


@pytest.mark.parametrize("target", ["/nowhere/rules", "gone", f"../{IGNORE}/x", IGNORE])
def test_a_folder_whose_ignore_file_is_a_link_to_nothing_is_not_looked_into(folder, target):
    """A drive that is away, or a link to itself."""
    (folder / "private" / IGNORE).symlink_to(target)
    assert names(folder) == ["a.jpg"]
    ((path, reason),) = listing_of(folder).unlisted
    assert path == os.fsencode(folder / "private") and f"{IGNORE} cannot be read: " in reason
    assert names(folder / "private") == [] and names(folder / "private" / "deep") == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOENT])
@pytest.mark.parametrize("root", ["", "private", "private/deep"])
def test_a_folder_whose_ignore_file_cannot_be_looked_at_is_not_looked_into(folder, monkeypatch, code, root):
    write(folder / "private" / IGNORE, "*")
    failing(monkeypatch, "stat", folder / "private" / IGNORE, code)
    assert names(folder / root) == (["a.jpg"] if root == "" else [])
    assert listing_of(folder / root).unlisted


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_root_around_which_nobody_can_tell_of_an_ignore_file_is_not_looked_into(folder, monkeypatch, code):
    failing(monkeypatch, "lstat", folder / "private" / IGNORE, code)
    assert names(folder / "private" / "deep") == []
    ((path, reason),) = listing_of(folder / "private" / "deep").unlisted
    assert path == os.fsencode(folder / "private" / "deep") and os.strerror(code) in reason


def test_a_link_to_rules_that_are_there_is_followed(folder):
    write(folder / "rules", "b.jpg")
    (folder / "private" / IGNORE).symlink_to(folder / "rules")
    assert names(folder) == ["a.jpg", "private/deep/c.jpg"]


@pytest.mark.parametrize("target", ["/nowhere", ".nomedia", None])
def test_nomedia_leaves_out_its_folder_whatever_it_is(folder, target):
    nomedia = folder / "private" / ".nomedia"
    nomedia.mkdir() if target is None else nomedia.symlink_to(target)
    assert names(folder) == ["a.jpg"] and relative(listing_of(folder).left_out, folder) == ["private"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_folder_that_is_listed_in_part_may_hold_nomedia_and_is_not_looked_into(folder, monkeypatch, code):
    real = os.scandir

    class Broken:
        def __init__(self, path):
            self._entries = real(path)

        def __enter__(self):
            yield next(self._entries)
            raise OSError(code, os.strerror(code))

        def __exit__(self, *error):
            self._entries.close()

    monkeypatch.setattr(os, "scandir", lambda path: (Broken if path.endswith(b"private") else real)(path))
    listed = listing_of(folder)
    assert relative((file.path for file in listed.files), folder) == ["a.jpg"]
    assert [path for path, _ in listed.unlisted] == [os.fsencode(folder / "private")]
