"""When a picture was taken, and what damaged EXIF costs."""

from __future__ import annotations

import struct
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.images import decode
from tests.retrieval.images.files import (
    ORIENTED,
    assert_shows,
    exif,
    files,
    save,
    with_exif,
)
from tests.retrieval.images.pictures import (
    picture,
)

pytestmark = pytest.mark.usefixtures("either_decoder")

WHEN = datetime(2021, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("format", sorted(ORIENTED))
def test_taken_at_is_when_the_shutter_opened(format):
    assert decode(save(picture(), format, exif=exif(6, "2021:02:03 04:05:06", "2022:01:01 00:00:00"))).taken_at == WHEN


def test_taken_at_is_read_from_a_jpeg_that_is_decoded_smaller():
    assert decode(save(picture(800, 600), "JPEG", exif=exif(6, "2021:02:03 04:05:06")), 50).taken_at == WHEN


DAMAGED_DATES = ["0000:00:00 00:00:00", "    :  :     :  :  ", "", "2021:02:30 04:05:06", "yesterday", "2021:02:03"]


@pytest.mark.parametrize("taken", [None, *DAMAGED_DATES])
def test_taken_at_falls_back_to_when_the_file_was_changed(taken):
    assert decode(save(picture(), "JPEG", exif=exif(1, taken, "2021:02:03 04:05:06"))).taken_at == WHEN


@pytest.mark.parametrize("date", [None, *DAMAGED_DATES])
def test_taken_at_is_none_for_absent_and_damaged_dates(date):
    assert decode(save(picture(), "JPEG", exif=exif(1, date, date))).taken_at is None


@pytest.mark.parametrize("date", ["2021:02:03 04:05:06\0\0", " 2021:02:03 04:05:06 "])
def test_padding_around_a_date_is_passed_over(date):
    assert decode(save(picture(), "JPEG", exif=exif(1, date))).taken_at == WHEN


@pytest.mark.parametrize("variant", ["gif", "bmp", "tiff float", "png 16 bits", "jpeg cmyk", "webp lossless"])
def test_taken_at_is_none_where_the_file_does_not_say(variant):
    assert decode(files()[variant]).taken_at is None


TEXT_FOR_RESOLUTION = (
    b"Exif\0\0II*\0\10\0\0\0\2\0" + struct.pack("<HHII", 0x011A, 2, 1, 0) + b"\x28\1\3\0\1\0\0\0\2" + bytes(7)
)
DAMAGED_EXIF = {
    "not tiff": b"Exif\0\0" + b"no tiff header, just words " * 4,
    "cut off": exif(None, "2021:02:03 04:05:06")[:30],
    "header only": b"Exif\0\0MM\0*",
    "lost directory": b"Exif\0\0MM\0*\xff\xff\xff\0" + bytes(60),
    "circular": b"Exif\0\0MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08" + bytes(60),
    "text for a resolution": TEXT_FOR_RESOLUTION,
}


@pytest.mark.parametrize("damage", sorted(DAMAGED_EXIF))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_damaged_exif_does_not_lose_the_picture(format, damage):
    assert_shows(with_exif(format, DAMAGED_EXIF[damage]), picture(), 40)


@pytest.mark.parametrize("offset", [0, 3, 10**6, 2**32 - 1])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_damaged_exif_does_not_lose_a_tiff(offset, compression):
    assert_shows(save(picture(), "TIFF", tiffinfo={0x8769: offset}, compression=compression), picture())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_exif_whatsoever_loses_the_picture(data):
    payload = bytearray(exif(3, "2021:02:03 04:05:06", "2022:03:04 05:06:07", other=2))
    for _ in range(data.draw(st.integers(1, 5))):
        payload[data.draw(st.integers(6, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(6, len(payload)))]
    format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    assert decode(with_exif(format, bytes(payload), picture(16, 16))).pixels.shape == (16, 16, 3)
