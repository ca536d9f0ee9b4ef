"""Decoded photos are kept for the next epoch, while the disk takes them."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retrieval.images import Photo
from tests.drives import mounted

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not hasattr(os, "pread"), reason="nothing is kept where files cannot be read at an offset"),
]


def picture(number, height=10):
    return np.random.default_rng(number).integers(0, 256, (height, 7 + number, 3), dtype=np.uint8)


class Decoder:
    """count: of the pictures decoded."""

    def __init__(self):
        self.count = 0
        self._counting = threading.Lock()

    def __call__(self, number, height=10):
        def decode():
            with self._counting:
                self.count += 1
            pixels = picture(number, height)
            return Photo(pixels, pixels.shape[1], pixels.shape[0], None)

        return decode


@pytest.fixture
def decoder():
    return Decoder()


def test_a_photo_is_decoded_once_and_the_same_again(tmp_path, decoder):
    from retrieval.training.data.decoded import DecodedPhotos

    photos = DecodedPhotos(tmp_path / "cache")
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            for number, pixels in enumerate(threads.map(lambda n: photos.pixels(n, decoder(n)), range(40))):
                np.testing.assert_array_equal(pixels, picture(number))
    assert decoder.count == 40
    assert list((tmp_path / "cache").iterdir()) == [], "the file has no name, so a kill leaves nothing"


def test_without_a_folder_nothing_is_kept(decoder):
    from retrieval.training.data.decoded import DecodedPhotos

    photos = DecodedPhotos(None)
    for _ in range(2):
        np.testing.assert_array_equal(photos.pixels(3, decoder(3)), picture(3))
    assert decoder.count == 2


@pytest.mark.parametrize("limit", ["LIMIT", "LARGEST"])
def test_what_is_beyond_a_limit_is_decoded_again(tmp_path, monkeypatch, decoder, limit):
    from retrieval.training.data import decoded

    monkeypatch.setattr(decoded, limit, picture(1).nbytes)
    photos = decoded.DecodedPhotos(tmp_path)
    for _ in range(2):
        for number in (1, 2):
            np.testing.assert_array_equal(photos.pixels(number, decoder(number)), picture(number))
    assert decoder.count == 3


def test_a_full_disk_is_one_line_and_costs_only_time(tmp_path, monkeypatch, decoder):
    from retrieval.training.data.decoded import DecodedPhotos

    notes: list[str] = []
    photos, real, calls = DecodedPhotos(tmp_path, notes.append), os.pwrite, []

    def pwrite(descriptor, content, offset):
        calls.append(offset)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content[:100], offset)  # a part: the rest does not fit

    monkeypatch.setattr(os, "pwrite", pwrite)
    for _ in range(2):
        for number in range(3):
            np.testing.assert_array_equal(photos.pixels(number, decoder(number)), picture(number))
    assert notes == [f"cannot keep decoded photos in {tmp_path}: the disk is full; they are decoded in every epoch"]
    assert decoder.count == 6 and len(calls) == 3


def test_a_file_system_that_is_really_full_is_no_signal(tmp_path, decoder, monkeypatch):
    """Of a megabyte, where this process may mount one."""
    from retrieval.training.data import decoded

    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk"):
        monkeypatch.setattr(decoded, "SHARE", 50.0)  # as if others filled the disk meanwhile
        photos = decoded.DecodedPhotos(tmp_path / "disk")
        for _ in range(2):
            for number in range(8):
                expected = picture(number, 9000)
                np.testing.assert_array_equal(photos.pixels(number, decoder(number, 9000)), expected)
        assert 8 < decoder.count <= 16 or not os.path.ismount(tmp_path / "disk")
        del photos


def test_a_drive_that_fails_to_read_is_no_end(tmp_path, monkeypatch, decoder):
    from retrieval.training.data.decoded import DecodedPhotos

    photos = DecodedPhotos(tmp_path)
    photos.pixels(1, decoder(1))

    def pread(descriptor, size, offset):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", pread)
    np.testing.assert_array_equal(photos.pixels(1, decoder(1)), picture(1))
    assert decoder.count == 2


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, decoder):
    from retrieval.training.data.decoded import DecodedPhotos

    (tmp_path / "file").touch()
    notes: list[str] = []
    photos = DecodedPhotos(tmp_path / "file", notes.append)
    np.testing.assert_array_equal(photos.pixels(1, decoder(1)), picture(1))
    assert len(notes) == 1 and notes[0].startswith(f"cannot keep decoded photos in {tmp_path / 'file'}: ")
