"""Errors of the file system: what can be listed is listed, and the rest is reported."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

import pytest

from retrieval.indexing.listing import list_images
from tests.retrieval.indexing.listings import listing_of, touch


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


def test_a_file_that_vanishes_while_it_is_listed_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "b.jpg")
    real = os.scandir

    @contextmanager
    def scandir(path):
        with real(path) as entries:
            listed = list(entries)
        (tmp_path / "a.jpg").unlink()
        yield iter(listed)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = listing_of(tmp_path)
    assert [os.path.basename(file.path) for file in listing.files] == [b"b.jpg"]
    assert listing.unlisted == ((os.fsencode(tmp_path / "a.jpg"), "has vanished since its folder was listed"),)


class Entry:
    """A directory entry of a file system that gives errors instead of types."""

    def __init__(self, entry, error):
        self.name, self.path, self._entry, self._error = entry.name, entry.path, entry, error

    def is_dir(self, follow_symlinks=True):
        if self.name.startswith(b"bad"):
            raise self._error
        return self._entry.is_dir(follow_symlinks=follow_symlinks)

    def __getattr__(self, name):
        return getattr(self._entry, name)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES])
def test_one_odd_entry_costs_nothing_else(tmp_path, monkeypatch, number):
    touch(tmp_path, "a.jpg", "bad.jpg", "bad/c.jpg", "d.jpg")
    real = os.scandir

    @contextmanager
    def scandir(path):
        with real(path) as entries:
            yield (Entry(entry, OSError(number, os.strerror(number))) for entry in entries)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = listing_of(tmp_path)
    assert [os.path.basename(file.path) for file in listing.files] == [b"a.jpg", b"d.jpg"]
    assert {os.path.basename(path): reason for path, reason in listing.unlisted} == {
        b"bad": os.strerror(number),
        b"bad.jpg": os.strerror(number),
    }


def test_an_error_in_the_middle_of_a_folder_is_told_of_the_folder(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "b/c.jpg")
    real = os.scandir

    @contextmanager
    def scandir(path):
        def failing():
            yield from entries
            raise OSError(errno.EIO, "Input/output error")

        with real(path) as entries:
            yield failing() if path.endswith(b"b") else entries

    monkeypatch.setattr(os, "scandir", scandir)
    assert listing_of(tmp_path).unlisted == ((os.fsencode(tmp_path / "b"), "Input/output error"),)
