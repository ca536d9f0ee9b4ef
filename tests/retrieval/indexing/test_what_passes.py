"""Trouble that passes does not become permanent: it costs no image."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError
from retrieval import images
from retrieval.indexing import reading, run
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from retrieval.progress import Observer
from tests.drives import mounted
from tests.retrieval.indexing.contents import collected, embeddings, failures, names
from tests.support import write_photo, write_photos

PHOTOS = 6
TROUBLES = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EACCES)


class Trouble:
    """Makes reading these files fail, in the call of open or of read."""

    def __init__(self, monkeypatch, files, code, when="open"):
        self.files = {os.fsencode(file) for file in files}
        real = open

        def troubled(file, *arguments, **options):
            if file in self.files and when == "open":
                raise OSError(code, os.strerror(code), file)
            opened = real(file, *arguments, **options)
            return Unreadable(opened, code) if file in self.files else opened

        monkeypatch.setattr(reading, "open", troubled, raising=False)


class Unreadable:
    def __init__(self, file, code):
        self._file, self._code = file, code

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def fileno(self):
        return self._file.fileno()

    def read(self):
        raise OSError(self._code, os.strerror(self._code))


@pytest.mark.parametrize("when", ["open", "read"])
@pytest.mark.parametrize("code", TROUBLES, ids=errno.errorcode.get)
def test_a_changed_image_that_cannot_be_read_now_keeps_its_row_and_is_tried_again(
    photos, path, encoder, monkeypatch, code, when
):
    index_folders([photos], path, encoder)
    before = embeddings(path)
    write_photo(photos / "003.png", seed=99)
    os.utime(photos / "003.png", ns=(1, 1))
    lines: list[tuple[str, str]] = []
    with monkeypatch.context() as patch:
        Trouble(patch, [photos / "003.png"], code, when)
        progress = index_folders([photos], path, encoder, observer=collected(lines))
    assert (progress.postponed, progress.failed, progress.changed) == (1, 0, 0)
    assert lines == [("003.png", f"cannot be read now: {os.strerror(code)}")]
    assert embeddings(path) == before and len(Collection.open(path).failures()) == 0
    assert index_folders([photos], path, encoder).changed == 1
    assert embeddings(path) != before


@pytest.mark.parametrize("code", TROUBLES, ids=errno.errorcode.get)
def test_a_new_image_that_cannot_be_read_now_is_no_failure_and_is_tried_again(photos, path, encoder, monkeypatch, code):
    with monkeypatch.context() as patch:
        Trouble(patch, [photos / "003.png", photos / "004.png"], code)
        assert index_folders([photos], path, encoder).postponed == 2
    assert len(Collection.open(path).failures()) == 0
    assert index_folders([photos], path, encoder).new == 2


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")], ids=["python", "os"]
)
def test_a_lack_of_memory_while_decoding_is_no_failure(photos, path, encoder, monkeypatch, error):

    def decode(content, *arguments):
        if content == (photos / "002.png").read_bytes():
            raise error
        return images.decode(content, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "decode", decode)
        assert index_folders([photos], path, encoder).postponed == 1
    assert index_folders([photos], path, encoder).new == 1


def test_a_file_that_is_being_written_is_tried_again(photos, path, encoder, monkeypatch):
    """A memory card is being copied: the file grows while it is read."""
    real = os.fstat

    class Growing:
        def __init__(self, status):
            self._status = status

        def __getattr__(self, name):
            return getattr(self._status, name)

        @property
        def st_size(self):
            return self._status.st_size + 5

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda descriptor: Growing(real(descriptor)))
        progress = index_folders([photos], path, encoder)
    assert progress.postponed == 6 and len(Collection.open(path).failures()) == 0
    assert index_folders([photos], path, encoder).new == 6


def test_a_changed_file_that_vanishes_is_mentioned_and_removed_by_the_next_run(photos, path, encoder, monkeypatch):
    index_folders([photos], path, encoder)
    write_photo(photos / "003.png", seed=99)
    os.utime(photos / "003.png", ns=(1, 1))
    real = run.Run.encode

    def after_it_vanished(self, encodings):
        (photos / "003.png").unlink()
        real(self, encodings)

    lines: list[tuple[str, str]] = []
    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "encode", after_it_vanished)
        index_folders([photos], path, encoder, observer=collected(lines))
    assert lines == [("003.png", "is gone since the folder was listed")]
    assert "003.png" in names(path)
    assert index_folders([photos], path, encoder).removed == 1


@pytest.mark.parametrize("when", ["2400-01-01", "1500-01-01"])
def test_a_file_from_beyond_all_dates_costs_no_other_and_is_not_read_again(photos, path, encoder, when):
    subprocess.run(["touch", "-d", when, photos / "003.png"], check=True)
    assert index_folders([photos], path, encoder).new == 6
    assert index_folders([photos], path, encoder).unchanged == 6
    assert encoder.encoded == 6


class TestDrivesThatAreAway:
    def test_a_drive_below_a_root_that_is_unmounted_keeps_its_images_and_nothing_is_embedded_again(
        self, photos, path, encoder, tmp_path
    ):
        drive = photos / "deep" / "drive"
        drive.mkdir(parents=True)
        lines: list[str] = []
        with mounted(drive):
            write_photos(drive, 5, first=50)
            index_folders([photos], path, encoder)
            shutil.copytree(drive, tmp_path / "stick")
        for file in drive.iterdir():  # where mounts are only simulated
            file.unlink()
        before = embeddings(path)
        progress = index_folders([photos], path, encoder, observer=Observer(note=lines.append))
        assert (progress.removed, progress.kept) == (0, 5) and embeddings(path) == before
        assert len(lines) == 1 and str(drive) in lines[0] and "--forget" in lines[0]
        with mounted(drive):
            for file in (tmp_path / "stick").iterdir():
                shutil.copy2(file, drive)
            progress = index_folders([photos], path, encoder)
            assert progress.new == progress.copied == 0
        assert encoder.encoded == 11

    def test_the_person_may_say_that_it_is_gone_for_good(self, photos, path, encoder):
        (photos / "sub").mkdir()
        write_photos(photos / "sub", 3, first=50)
        index_folders([photos], path, encoder)
        for file in (photos / "sub").iterdir():
            file.unlink()
        assert index_folders([photos], path, encoder).kept == 3
        assert index_folders([photos], path, encoder, Settings(forget=True)).removed == 3
        assert index_folders([photos], path, encoder).kept == 0

    def test_excludes_are_remembered(self, photos, path, encoder):
        index_folders([photos], path, encoder, Settings(exclude=("00[12].png",)))
        assert index_folders([photos], path, encoder).new == 0
        assert Collection.open(path).manifest.excludes == ("00[12].png",)
        assert index_folders([photos], path, encoder, Settings(no_exclude=("00[12].png",))).new == 2
        assert index_folders([photos], path, encoder).unchanged == 6

    def test_pictures_passed_over_are_remembered(self, photos, path, encoder):
        (photos / "a.xcf").write_bytes(b"x")
        (photos / "b.XCF").write_bytes(b"x")
        progress = index_folders([photos], path, encoder)
        assert progress.passed_over == {".xcf": 2}
        assert Collection.open(path).manifest.passed_over == {str(photos): {".xcf": 2}}


def test_a_lost_manifest_is_rebuilt_and_nothing_is_embedded_again(photos, path, encoder):
    index_folders([photos], path, encoder)
    before = embeddings(path)
    for manifest in path.glob("manifest-*.json"):
        manifest.write_bytes(b"")
    with pytest.raises(CrosslookError, match="--repair"):
        index_folders([photos], path, encoder)
    lines: list[str] = []
    index_folders([photos], path, encoder, Settings(repair=True), Observer(note=lines.append))
    assert embeddings(path) == before and encoder.encoded == 6
    assert any("rebuilt from 1 segment with 6 images" in line for line in lines)
    assert Collection.open(path).manifest.folders == (str(photos),)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(photos, path, encoder, monkeypatch):
    real = run.Run.encode

    def after_it_changed(self, encodings):
        (photos / "003.png").unlink()
        os.mkfifo(photos / "003.png")
        real(self, encodings)

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "encode", after_it_changed)
        assert index_folders([photos], path, encoder).postponed == 1


def test_a_link_to_itself_is_a_broken_link(photos, path, encoder):
    (photos / "loop.png").symlink_to(photos / "loop.png")
    assert index_folders([photos], path, encoder).failed == 1
    assert failures(path) == {"loop.png": "is a broken link"}
    assert index_folders([photos], path, encoder).still_failing == 1
