"""Every format, in all of its modes, shows the picture that was saved."""

from __future__ import annotations

import io

import numpy as np
import PIL
import pillow_heif
import pytest
from PIL import Image

from tests.retrieval.images.files import (
    ORIENTED,
    assert_shows,
    cmyk,
    png,
    save,
    tiff,
    ycck,
)
from tests.retrieval.images.pictures import (
    BILEVEL,
    GREY,
    INDICES,
    PALETTE,
    as_rgb,
    in_palette,
    picture,
)


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"optimize": True, "restart_marker_rows": 1},
    ],
    ids=str,
)
def test_jpeg_shows_the_picture(options):
    assert_shows(save(picture(), "JPEG", quality=95, **options), picture(), 12)


def test_grey_jpeg_shows_the_picture():
    assert_shows(save(GREY, "JPEG", quality=95), as_rgb(GREY), 6)


def test_cmyk_jpeg_of_adobe_is_not_negative():
    content = save(cmyk(picture(), 0), "JPEG", quality=95)
    assert b"Adobe" in content
    assert_shows(content, picture(), 6)


def test_cmyk_jpeg_heeds_its_black():
    assert_shows(save(cmyk(picture(), 102), "JPEG", quality=95), np.uint8(picture() * 0.6), 6)


def test_ycck_jpeg_shows_the_picture():
    assert_shows(ycck(picture()), picture(), 6)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"samples": picture()}, picture()),
        ({"samples": picture().astype(np.uint16) * 257, "depth": 16}, picture()),
        ({"samples": GREY[..., None]}, as_rgb(GREY)),
        ({"samples": BILEVEL[..., None], "depth": 1}, as_rgb(BILEVEL * 255)),
        ({"samples": GREY[..., None] // 64, "depth": 2}, as_rgb(GREY // 64 * 85)),
        ({"samples": GREY[..., None] // 16, "depth": 4}, as_rgb(GREY // 16 * 17)),
        ({"samples": GREY[..., None].astype(np.uint16) * 257, "depth": 16}, as_rgb(GREY)),
        ({"samples": INDICES[..., None], "palette": PALETTE}, PALETTE[INDICES]),
        ({"samples": BILEVEL[..., None], "depth": 1, "palette": PALETTE[[5, 90]]}, PALETTE[[5, 90]][BILEVEL]),
    ],
    ids=["rgb", "rgb 16", "grey", "1 bit", "2 bits", "4 bits", "grey 16", "palette", "palette of two"],
)
def test_png_shows_exactly_the_picture(content, expected, interlaced):
    assert_shows(png(**content, interlaced=interlaced), expected)


@pytest.mark.parametrize("interlace", [0, 1])
def test_gif_shows_exactly_the_picture(interlace):
    assert_shows(save(in_palette(), "GIF", interlace=interlace), PALETTE[INDICES])


def test_lossless_webp_shows_exactly_the_picture():
    assert_shows(save(picture(), "WEBP", lossless=True), picture())


def test_lossy_webp_shows_the_picture():
    assert_shows(save(picture(), "WEBP", quality=95), picture(), 12)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(picture()), picture()),
        (Image.fromarray(GREY), as_rgb(GREY)),
        (in_palette(), PALETTE[INDICES]),
        (Image.fromarray(BILEVEL > 0), as_rgb(BILEVEL * 255)),
    ],
    ids=["RGB", "L", "P", "1"],
)
@pytest.mark.parametrize("format", ["BMP", "DIB", "TIFF"])
def test_bmp_and_tiff_show_exactly_the_picture(format, image, expected):
    assert_shows(save(image, format), expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("samples", "photometric", "expected"),
    [
        (GREY, 1, as_rgb(GREY)),
        (GREY, 0, as_rgb(255 - GREY)),
        (np.uint16(GREY) * 100, 1, as_rgb(np.rint(GREY * (100 / 257)))),
        (picture(), 2, picture()),
        (np.uint16(picture()) * 257, 2, picture()),
        (np.asarray(cmyk(picture(), 0)), 5, picture()),
        (np.float32(GREY) / 255, 1, as_rgb(GREY)),
        (np.int32(GREY) * 10**6 - 10**8, 1, as_rgb(GREY)),
        (np.int16(GREY) * 100 - 12000, 1, as_rgb(GREY)),
    ],
    ids=["L", "L inverted", "L 16", "RGB", "RGB 16", "CMYK", "float32", "int32", "int16"],
)
def test_tiff_of_either_byte_order_shows_exactly_the_picture(samples, photometric, order, expected):
    assert_shows(tiff(samples, order, photometric), expected)


# Pillow 11 is built without it, and corrupts memory when it fails to write one.
ZSTD = "zstd" if PIL.__version__ >= "12" else "tiff_lzw"


@pytest.mark.parametrize(
    ("compression", "modes"),
    [(name, "1 L RGB") for name in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma", ZSTD)]
    + [(name, "1") for name in ("group3", "group4", "tiff_ccitt")],
)
def test_compressed_tiff_shows_exactly_the_picture(compression, modes):
    shown = {"1": (BILEVEL > 0, as_rgb(BILEVEL * 255)), "L": (GREY, as_rgb(GREY)), "RGB": (picture(), picture())}
    for mode in modes.split():
        values, expected = shown[mode]
        assert_shows(save(values, "TIFF", compression=compression), expected)


def test_tiff_compressed_as_jpeg_shows_the_picture():
    assert_shows(save(picture(), "TIFF", compression="jpeg", quality=95), picture(), 12)


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
@pytest.mark.parametrize("brand", [None, b"mif1"])
def test_heic_and_avif_show_the_picture_whatever_their_brand(format, brand):
    content = save(picture(), format, **ORIENTED[format])
    assert_shows(content[:8] + (brand or content[8:12]) + content[12:], picture(), 3)


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_grey_heic_and_avif_show_the_picture(format):
    assert_shows(save(GREY, format, quality=95), as_rgb(GREY), 6)


def test_ten_bit_heic_shows_the_picture():
    heif = pillow_heif.from_bytes("RGB;16", (48, 32), (picture().astype("<u2") * 257).tobytes())
    buffer = io.BytesIO()
    heif.save(buffer, quality=-1, chroma=444)
    assert_shows(buffer.getvalue(), picture(), 3)
