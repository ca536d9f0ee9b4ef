"""No file takes longer to decode than it may."""

from __future__ import annotations

import inspect
import struct
import time

import numpy as np
import pytest

from retrieval.images import MAX_SECONDS, TooSlow, decode, opening, reader
from tests.retrieval.images.files import assert_shows, assert_unreadable, exif, files, gif, png, png_chunk, save
from tests.retrieval.images.pictures import STORED, picture

JPEG = save(picture(), "JPEG", quality=95)
PNG = png(picture())
GIF = gif((8, 8), (8, 8))
MILLION = 1_000_000


def in_jpeg(filling):
    return JPEG[:20] + filling + JPEG[20:]


FILLING = {
    "0xFF": lambda: in_jpeg(b"\xff" * 60 * MILLION),
    "0xFF after the start": lambda: JPEG[:2] + b"\xff" * 60 * MILLION + JPEG[2:],
    "zeros": lambda: in_jpeg(bytes(60 * MILLION)),
    "words": lambda: in_jpeg(b"junk " * 10 * MILLION),
}


@pytest.mark.usefixtures("either_decoder")
@pytest.mark.parametrize("filling", sorted(FILLING))
def test_filling_bytes_in_a_jpeg_are_skipped_at_once(filling):
    content = FILLING[filling]()
    started = time.thread_time()
    assert_shows(content, decode(JPEG).pixels)
    assert time.thread_time() - started < 2


SEGMENTS = {
    "comments": b"\xff\xfe\0\2",
    "EXIF": b"\xff\xe1\0\x0aExif\0\0xx",
    "nothing for Pillow": b"\xff\xe5\0\2",
    "restarts": b"\xff\xd0",
    "escapes": b"\xff\0",
}


@pytest.mark.parametrize("segment", sorted(SEGMENTS))
def test_many_segments_in_a_jpeg_are_passed_over(segment):
    content = in_jpeg(SEGMENTS[segment] * 200_000)
    started = time.thread_time()
    assert_shows(content, decode(JPEG).pixels)
    assert time.thread_time() - started < 2


def test_what_matters_of_a_jpeg_with_much_filling_is_kept():
    content = save(STORED[6](picture()), "JPEG", quality=95, exif=exif(6, "2021:02:03 04:05:06"))
    photo = decode(content[:2] + b"\xff\xfe\0\2" * 5000 + bytes(10_000) + content[2:])
    expected = decode(content)
    assert photo.taken_at == expected.taken_at is not None
    assert photo.pixels.tolist() == expected.pixels.tolist()


def test_thousands_of_tables_in_a_jpeg_are_damage():
    assert "thousands of tables" in assert_unreadable(in_jpeg((b"\xff\xdb\0\x43\0" + bytes(64)) * 5000))


CHUNKS = {
    "texts": png_chunk(b"tEXt", b""),
    "unknown": png_chunk(b"prVt", b"abc"),
    "resolutions": png_chunk(b"pHYs", bytes(9)),
}


@pytest.mark.parametrize("chunk", sorted(CHUNKS))
@pytest.mark.parametrize("offset", [33, -12])
def test_many_chunks_in_a_png_are_passed_over(chunk, offset):
    content = PNG[:offset] + CHUNKS[chunk] * 100_000 + PNG[offset:]
    started = time.thread_time()
    assert_shows(content, picture())
    assert time.thread_time() - started < 2


def progressive(scans):
    content = save(picture(640, 480), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * scans + b"\xff\xd9"


SLOW = {
    "jpeg of many scans": lambda: progressive(20_000),
    "gif of comments": lambda: (
        gif((8, 8), (8, 8))[:19] + b"!\xfe" + b"\1a" * 2 * MILLION + b"\0" + gif((8, 8), (8, 8))[19:]
    ),
    "psd of resources": lambda: (
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHHII", 3, 100, 100, 8, 3, 0, 60 * MILLION) + b"8BIM\0\1" + bytes(6))[
            :34
        ]
        + b"8BIM\0\1\0\0\0\0\0\0" * MILLION
    ),
    "jpeg of many segments": lambda: in_jpeg(b"\xff\xfe\0\2" * 2 * MILLION),
    "png of many chunks": lambda: PNG[:33] + CHUNKS["texts"] * MILLION + PNG[33:],
    "raw file of beginnings": lambda: b"FOVb" + b"\xff\xd8\xff\xe0\0\2" * MILLION,
}


@pytest.mark.parametrize("kind", sorted(SLOW))
def test_a_file_that_keeps_its_parser_busy_is_given_up(kind):
    content = SLOW[kind]()
    started = time.thread_time()
    with pytest.raises(TooSlow) as raised:
        decode(content, max_seconds=0.1)
    assert str(raised.value) == "takes longer than 0.1 s to decode"
    assert time.thread_time() - started < 1


def test_the_time_of_a_file_is_twenty_seconds_unless_told():
    assert MAX_SECONDS == 20
    assert inspect.signature(decode).parameters["max_seconds"].default == MAX_SECONDS


@pytest.mark.parametrize("variant", ["jpeg", "png", "gif", "tiff lzw", "webp", "heic"])
def test_an_ordinary_file_has_time_to_spare(variant):
    assert decode(files()[variant], max_seconds=2).note == ""


def test_waiting_for_room_does_not_count(monkeypatch):
    """Only this thread's processor time counts, not sleep and not other threads' work."""
    clock = reader.Clock(0.05)
    time.sleep(0.06)
    clock.check()
    end = time.thread_time() + 0.06
    while time.thread_time() < end:
        pass
    with pytest.raises(TooSlow):
        clock.check()


@pytest.mark.usefixtures("by_pillow")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_being_slow_is_not_taken_for_damage_of_which_a_part_shows(format, monkeypatch):
    content = save(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8), format)
    monkeypatch.setattr(opening, "Reader", SlowReader)
    with pytest.raises(TooSlow):
        decode(content)


class SlowReader(reader.Reader):
    """Runs out of time when half of the file has been read."""

    def read(self, size=-1, /):
        if self.tell() > len(self.getbuffer()) // 2:
            raise TooSlow(1)
        return super().read(size)
