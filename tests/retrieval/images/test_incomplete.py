"""A file that lacks its end, or is damaged after a part of the picture, is decoded as far as it goes, with a note."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from retrieval.images import INCOMPLETE, decode
from tests.retrieval.images.files import (
    VARIANTS,
    assert_shows,
    assert_unreadable,
    exif,
    files,
    png,
    png_chunk,
    save,
    tiff,
)
from tests.retrieval.images.pictures import STORED, as_rgb, picture

pytestmark = pytest.mark.usefixtures("either_decoder")

LARGE = picture(320, 240)
NOISE = np.random.default_rng(0).integers(
    0, 256, (240, 320, 3), dtype=np.uint8
)  # noise, so that bytes are proportional to rows
FROM_TOP = {
    "jpeg": save(NOISE, "JPEG", quality=80),
    "jpeg restarts": save(NOISE, "JPEG", quality=80, restart_marker_rows=1),
    "jpeg grey": save(NOISE[..., 0], "JPEG", quality=80),
    "png": save(NOISE, "PNG"),
    "png grey 16": png(NOISE[..., :1].astype(np.uint16) * 257, 16),
    "gif": save(Image.fromarray(NOISE).quantize(256), "GIF", interlace=0),
    "tiff": tiff(NOISE),
    "tiff lzw": save(NOISE, "TIFF", compression="tiff_lzw"),
}


def complete(name):
    return decode(FROM_TOP[name]).pixels


@pytest.mark.parametrize("share", [0.4, 0.7, 0.97])
@pytest.mark.parametrize("name", sorted(set(FROM_TOP) - {"tiff lzw"}))
def test_a_file_that_lacks_its_end_shows_its_beginning(name, share):
    content = FROM_TOP[name]
    photo = decode(content[: int(len(content) * share)])
    rows = int(240 * share) - 32
    assert photo.note == INCOMPLETE
    assert (photo.width, photo.height) == (320, 240)
    assert np.array_equal(photo.pixels[:rows], complete(name)[:rows])


@pytest.mark.parametrize("missing", [1, 2, 3, 10, 100])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 2}], ids=str
)
def test_a_jpeg_that_lacks_its_last_bytes_is_nearly_all_there(missing, options):
    content = save(NOISE, "JPEG", quality=80, **options)
    photo = decode(content[:-missing])
    assert photo.note == INCOMPLETE
    assert np.array_equal(photo.pixels[:200], decode(content).pixels[:200])


def test_a_progressive_jpeg_that_lacks_half_shows_all_of_the_picture_less_sharply():
    content = save(LARGE, "JPEG", progressive=True)
    photo = decode(content[: len(content) // 2])
    assert photo.note == INCOMPLETE
    assert np.abs(photo.pixels.astype(int) - LARGE).mean() < 16


def test_a_bmp_that_lacks_its_end_shows_its_lower_part():
    photo = decode(save(NOISE, "BMP")[: 320 * 240 * 3 // 2])
    assert photo.note == INCOMPLETE
    assert np.array_equal(photo.pixels[125:], NOISE[125:])


@pytest.mark.parametrize("min_side", [0, 20])
@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_what_there_is_of_an_incomplete_picture_is_upright(format, orientation, min_side):
    content = save(STORED[orientation](picture(640, 480)), format, exif=exif(orientation, "2021:02:03 04:05:06"))
    full, photo = decode(content, min_side), decode(content[: int(len(content) * 0.7)], min_side)
    assert (photo.width, photo.height, photo.taken_at) == (640, 480, full.taken_at)
    same = (np.abs(photo.pixels.astype(int) - full.pixels) <= 2).all(axis=2)
    assert photo.note == INCOMPLETE and 0.4 < same.mean() < 1


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_tiff_that_lacks_its_last_strip_is_upright(orientation):
    buffer = io.BytesIO()
    Image.fromarray(STORED[orientation](picture(64, 48))).save(buffer, "TIFF", exif=exif(orientation))
    photo = decode(buffer.getvalue()[:-1000])
    assert photo.note == INCOMPLETE
    assert photo.pixels.shape == (48, 64, 3)
    same = (photo.pixels == picture(64, 48)).all(axis=2)
    assert 0.8 < same.mean() < 1


@pytest.mark.parametrize("name", sorted(FROM_TOP))
def test_damage_in_the_middle_leaves_the_beginning(name):
    if name.startswith("jpeg"):
        pytest.skip("libjpeg goes on after damage, and does not tell")
    content = bytearray(FROM_TOP[name])
    middle = len(content) // 2
    if not name.startswith(("tiff", "gif")):
        content[middle : middle + 300] = b"\xff" * 300
        assert decode(bytes(content)).note == INCOMPLETE
    assert np.array_equal(decode(bytes(content)).pixels[:90], complete(name)[:90])


def test_a_webp_that_lacks_its_end_shows_its_beginning():
    content = save(LARGE, "WEBP")
    photo = decode(content[: int(len(content) * 0.9)])
    assert photo.note == INCOMPLETE
    assert np.abs(photo.pixels[:100].astype(int) - decode(content).pixels[:100]).mean() < 8


@pytest.mark.parametrize("variant", VARIANTS)
def test_whole_files_have_no_note(variant):
    assert decode(files()[variant]).note == ""


@pytest.mark.parametrize("name", sorted(FROM_TOP))
@pytest.mark.parametrize("share", [0.02, 0.06])
def test_a_file_of_which_nearly_nothing_shows_is_damaged(name, share):
    content = FROM_TOP[name]
    assert "damaged" in assert_unreadable(content[: int(len(content) * share)])


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_without_any_pixels_is_damaged(interlaced):
    content = png(picture(), interlaced=interlaced)
    assert "damaged" in assert_unreadable(content[: content.index(b"IDAT") + 6])


def test_the_first_pass_alone_of_an_interlaced_png_is_damage():
    content = png(NOISE, interlaced=True)
    assert "damaged" in assert_unreadable(content[: int(len(content) * 0.015)])


@pytest.mark.parametrize("variant", ["avif", "heic", "webp", "tiff lzw"])
@pytest.mark.parametrize("share", [0.3, 0.45])
def test_formats_that_show_nothing_without_their_end_are_damaged(variant, share):
    content = files()[variant]
    assert "damaged" in assert_unreadable(content[: int(len(content) * share)])


# --------------------------------------------------------------------------------- PNG chunks that do not matter

BODY = b"a name\0" + bytes(100)
NEEDLESS = {
    "large compressed text": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 5_000_000)),
    "large international text": png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"a" * 5_000_000)),
    "much text": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 900_000)) * 80,
    "large profile": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(5_000_000))),
    "profile by another method": png_chunk(b"iCCP", b"profile\0\7" + bytes(50)),
    "broken profile": png_chunk(b"iCCP", b"profile\0\0" + bytes(50)),
    "empty profile": png_chunk(b"iCCP", b""),
    "unknown": png_chunk(b"abCd", BODY),
    "unknown and wrong": png_chunk(b"abCd", BODY)[:-4] + b"\0\0\0\0",
    "text with a wrong checksum": png_chunk(b"tEXt", BODY)[:-4] + b"\1\2\3\4",
    "short gamma": png_chunk(b"gAMA", b"\0"),
    "short resolution": png_chunk(b"pHYs", b"\0\0"),
    "empty chromaticities": png_chunk(b"cHRM", b""),
    "short animation": png_chunk(b"acTL", b"\0"),
    "no EXIF": png_chunk(b"eXIf", b"nothing of the kind"),
    "a length that cannot be": struct.pack(">I", 2**31 - 1) + png_chunk(b"tEXt", BODY)[4:],
    "a name that cannot be": png_chunk(b"\0\1\2\3", BODY),
}


@pytest.mark.parametrize("chunk", sorted(NEEDLESS))
@pytest.mark.parametrize("place", ["before the palette", "before the pixels", "after the pixels"])
def test_a_png_chunk_that_does_not_matter_for_the_picture_does_not_cost_it(chunk, place):
    content = files()["png palette"]
    names = {"before the palette": b"PLTE", "before the pixels": b"IDAT", "after the pixels": b"IEND"}
    start = content.index(names[place]) - 4
    assert_shows(content[:start] + NEEDLESS[chunk] + content[start:], decode(content).pixels)


@pytest.mark.parametrize("chunk", sorted(set(NEEDLESS) - {"a name that cannot be"}))
def test_a_png_with_needless_chunks_is_still_upright(chunk):
    late = NEEDLESS[chunk] + png_chunk(b"eXIf", exif(6, "2021:02:03 04:05:06")[6:])
    content = png(STORED[6](picture()), late=late)
    assert_shows(content, picture())
    assert decode(content).taken_at is not None


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT", b"IEND"])
def test_a_wrong_checksum_of_a_png_chunk_does_not_cost_the_picture(name):
    content = bytearray(files()["png palette"])
    start = content.index(name) - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    content[end - 4 : end] = b"\1\2\3\4"
    assert_shows(bytes(content), decode(files()["png palette"]).pixels)


def test_a_png_without_its_end_chunk_is_all_there():
    assert_shows(files()["png palette"][:-12], decode(files()["png palette"]).pixels)


def test_a_png_of_many_pieces_is_all_there():
    content = png(picture())
    start = content.index(b"IDAT") - 4
    body = content[start + 8 : start + 8 + int.from_bytes(content[start : start + 4])]
    pieces = b"".join(png_chunk(b"IDAT", body[place : place + 1]) for place in range(len(body)))
    assert_shows(content[:start] + pieces + content[-12:], picture())


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_png_with_needless_chunks_shows_its_beginning(share):
    content = png(NOISE)
    content = content[:33] + NEEDLESS["large profile"] + content[33:]
    photo = decode(content[: int(len(content) * share)])
    assert photo.note == INCOMPLETE
    assert np.array_equal(photo.pixels[: int(200 * share)], NOISE[: int(200 * share)])


def test_a_grey_fill_that_is_the_picture_is_not_taken_for_missing_rows():
    values = np.full((240, 320), 128, np.uint8)
    values[:4] = 10
    assert_shows(save(values, "PNG"), as_rgb(values))
