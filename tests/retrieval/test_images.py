"""What `decode` promises. Every input is built here, so that the right pixels are known from its construction."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cache

import numpy as np
import PIL
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from retrieval import images
from retrieval.images import ENDINGS, MAX_PIXELS, TooManyPixels, UnreadableImage, decode
FORMATS=()

pillow_heif.register_heif_opener()
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # of damaged files, which are built on purpose

# ------------------------------------------------------------------------------------------------------- pictures


def picture(width=48, height=32):
    """Smooth, so that lossy formats keep it; and unlike itself however it is turned or mirrored."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([across, down, across * down / 255], axis=2).astype(np.uint8)


GREY = picture()[..., 2]
ALPHA = picture()[..., 0]  # transparent at the left, opaque at the right
BILEVEL = np.random.default_rng(0).integers(0, 2, (8, 12)).repeat(4, 0).repeat(4, 1)
INDICES = (np.arange(32)[:, None] // 4 * 12 + np.arange(48) // 4).astype(np.uint8)
PALETTE = picture()[::4, ::4].reshape(-1, 3)
OTHER = 255 - picture()


def in_palette():
    image = Image.frombytes("P", (48, 32), INDICES.tobytes())
    image.putpalette(PALETTE.tobytes())
    return image


def as_rgb(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def with_alpha(values, alpha=ALPHA):
    return np.dstack([values, alpha])


def on_white(rgb, alpha):
    opacity = alpha[..., None] / 255
    return np.rint(rgb * opacity + 255 * (1 - opacity)).astype(np.uint8)


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
STORED = UPRIGHT | {6: UPRIGHT[8], 8: UPRIGHT[6]}

# ---------------------------------------------------------------------------------------------------------- files


def save(image, format="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(samples, depth=8, palette=None, transparency=None, interlaced=False, late=b"", size=None):
    """samples: [h, w, channels]. late: chunks after the pixels. size: the (width, height) that it claims to have."""
    colour = 3 if palette is not None else {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]]
    width, height = size or samples.shape[1::-1]

    def lines(part):
        planes = (part[..., None].astype(np.uint16) >> np.arange(depth)[::-1]) & 1
        return b"".join(b"\0" + line.tobytes() for line in np.packbits(planes.reshape(len(part), -1) > 0, axis=1))

    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = (samples[y::down, x::right] for x, y, right, down in passes)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)),
            b"" if palette is None else png_chunk(b"PLTE", palette.tobytes()),
            b"" if transparency is None else png_chunk(b"tRNS", transparency),
            png_chunk(b"IDAT", zlib.compress(b"".join(lines(part) for part in parts if part.size))),
            late,
            png_chunk(b"IEND", b""),
        )
    )


def tiff(samples, order="<", photometric=1, size=None):
    """Uncompressed, in one strip. samples: [h, w] or [h, w, channels] of any dtype. order: < little, > big endian."""
    width, height = size or samples.shape[1::-1]
    channels, bits = samples.size // (samples.shape[0] * samples.shape[1]), 8 * samples.dtype.itemsize
    strip = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    per_channel = struct.pack(f"{order}{max(channels, 3)}H", *[bits] * max(channels, 3))
    entries = (
        *((256, 4, 1, width), (257, 4, 1, height)),
        (258, 3, channels, 8 + len(strip)) if channels > 1 else (258, 4, 1, bits),
        *((259, 4, 1, 1), (262, 4, 1, photometric), (273, 4, 1, 8), (277, 4, 1, channels), (278, 4, 1, height)),
        *((279, 4, 1, len(strip)), (339, 4, 1, {"u": 1, "i": 2, "f": 3}[samples.dtype.kind])),
    )
    directory = struct.pack(order + "H", len(entries)) + b"".join(struct.pack(order + "HHII", *e) for e in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(strip) + len(per_channel))
    return head + strip + per_channel + directory + bytes(4)


def gif(screen, frame):
    """A GIF file that claims these sizes and holds no pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<4HB", 0, 0, *frame, 0) + b"\2\2\x44\1\0;"


def bmp(width, height):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + header + bytes(4)


def animated_webp(width, height):
    frames = [Image.fromarray(values[:8, :8]) for values in (picture(), OTHER)]
    content = bytearray(save(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    content[24:30] = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return bytes(content)


def jpeg_claiming(width, height, **options):
    content = bytearray(save(picture(), "JPEG", **options))
    frame = content.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def cmyk(rgb, black):
    """The inks that make rgb wherever black is 0."""
    return Image.fromarray(np.dstack([255 - rgb, np.full(rgb.shape[:2], black, np.uint8)]), "CMYK")


def ycck(rgb):
    """JPEG as Photoshop writes it: inverted, and its CMY as luma and chroma."""
    inverted = 255 - np.asarray(Image.fromarray(255 - rgb).convert("YCbCr"))
    image = Image.fromarray(np.dstack([inverted, np.zeros(rgb.shape[:2], np.uint8)]), "CMYK")
    content = bytearray(save(image, "JPEG", quality=100))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


def exif(orientation=None, taken=None, changed=None, other=None):
    """EXIF bytes. other: the value of a tag that can be renamed to orientation (see `renamed`)."""
    tags = Image.Exif()
    for tag, value in ((0x0112, orientation), (0x0128, other), (0x0132, changed)):
        if value is not None:
            tags[tag] = value
    if taken is not None:
        tags.get_ifd(0x8769)[0x9003] = taken
    return tags.tobytes()


ORIENTATION_TAG, OTHER_TAG = b"\1\x12\0\3\0\0\0\1", b"\1\x28\0\3\0\0\0\1"


def renamed(content):
    """The `other` tag becomes the orientation, which the writers of HEIC and AVIF would have put into the container."""
    assert content.count(OTHER_TAG) == 1
    return content.replace(ORIENTATION_TAG, b"\1\x13" + ORIENTATION_TAG[2:]).replace(OTHER_TAG, ORIENTATION_TAG)


def with_exif(format, payload, values=None):
    """An image with these EXIF bytes, be they damaged."""
    values = picture() if values is None else values
    if format != "AVIF":
        return save(values, format, exif=payload)
    sound = exif(taken="2" * (len(payload) - len(exif(taken="")) if len(payload) > 100 else 60))
    content = save(values, format, exif=sound)
    place = content.index(sound[6:])
    return content[:place] + payload.ljust(len(sound))[6 : len(sound)] + content[place + len(sound) - 6 :]


ORIENTED = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIF": {"quality": -1, "chroma": 444},
}


@cache
def files():
    """A valid file of every format and of the variants that take another way through the decoders."""
    two = {"save_all": True, "append_images": [Image.fromarray(OTHER)]}
    dated = exif(6, "2021:02:03 04:05:06", "2022:03:04 05:06:07")
    return {
        "jpeg": save(picture(), "JPEG", exif=dated),
        "jpeg progressive": save(picture(), "JPEG", progressive=True),
        "jpeg cmyk": save(cmyk(picture(), 0), "JPEG"),
        "mpo": save(picture(), "MPO", **two),
        "png": save(picture(), "PNG", exif=dated),
        "png palette": save(in_palette(), "PNG", transparency=3),
        "png 16 bits": png(np.uint16(GREY)[..., None] * 257, 16),
        "webp": save(picture(), "WEBP", exif=dated),
        "webp lossless": save(with_alpha(picture()), "WEBP", lossless=True),
        "webp animated": save(picture(), "WEBP", **two),
        "gif": save(in_palette(), "GIF", transparency=3),
        "gif animated": save(in_palette(), "GIF", **two),
        "bmp": save(picture(), "BMP"),
        "tiff": save(picture(), "TIFF", exif=dated),
        "tiff lzw": save(picture(), "TIFF", compression="tiff_lzw"),
        "tiff jpeg": save(picture(), "TIFF", compression="jpeg"),
        "tiff float": tiff(np.float32(GREY), ">"),
        "heic": save(picture(), "HEIF", exif=dated),
        "heic grey": save(GREY, "HEIF"),
        "heic alpha": save(with_alpha(picture()), "HEIF"),
        "avif": save(picture(), "AVIF", exif=dated),
        "avif animated": save(picture(), "AVIF", **two),
    }


VARIANTS = sorted(files())


def assert_shows(content, expected, tolerance=0):
    photo = decode(content)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.shape == expected.shape == (photo.height, photo.width, 3)
    assert np.abs(photo.pixels.astype(int) - expected.astype(int)).max() <= tolerance


def assert_unreadable(content, **options):
    with pytest.raises(UnreadableImage) as raised:
        decode(content, **options)
    reason = str(raised.value)
    assert reason.strip() == reason and len(reason.splitlines()) == 1
    return reason


# -------------------------------------------------------------------------------------------- formats and modes


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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"samples": with_alpha(picture())}, on_white(picture(), ALPHA)),
        ({"samples": with_alpha(GREY)}, on_white(as_rgb(GREY), ALPHA)),
        ({"samples": with_alpha(picture()).astype(np.uint16) * 257, "depth": 16}, on_white(picture(), ALPHA)),
        ({"samples": with_alpha(GREY).astype(np.uint16) * 257, "depth": 16}, on_white(as_rgb(GREY), ALPHA)),
        (
            {"samples": INDICES[..., None], "palette": PALETTE, "transparency": bytes(range(96))},
            on_white(PALETTE[INDICES], INDICES),
        ),
        (
            {"samples": INDICES[..., None], "palette": PALETTE, "transparency": b"\xff\xff\0"},
            on_white(PALETTE[INDICES], np.where(INDICES == 2, 0, 255)),
        ),
        ({"samples": INDICES[..., None], "transparency": b"\0\7"}, as_rgb(np.where(INDICES == 7, 255, INDICES))),
        (
            {"samples": INDICES[..., None].astype(np.uint16) * 257, "depth": 16, "transparency": b"\7\7"},
            as_rgb(np.where(INDICES == 7, 255, INDICES)),
        ),
        ({"samples": BILEVEL[..., None], "depth": 1, "transparency": b"\0\0"}, as_rgb(BILEVEL * 0 + 255)),
        (
            {"samples": PALETTE[INDICES], "transparency": struct.pack(">3H", *PALETTE[50])},
            on_white(PALETTE[INDICES], np.where(INDICES == 50, 0, 255)),
        ),
    ],
    ids=["rgba", "la", "rgba 16", "la 16", "palette", "palette entry", "grey", "grey 16", "1 bit", "rgb"],
)
def test_transparency_in_png_is_composited_on_white(content, expected):
    assert_shows(png(**content), expected, 1)


@pytest.mark.parametrize("format", ["WEBP", "TIFF", "AVIF", "HEIF"])
def test_alpha_is_composited_on_white(format):
    options = ORIENTED[format] | ({"exact": True} if format == "WEBP" else {})
    assert_shows(save(with_alpha(picture()), format, **options), on_white(picture(), ALPHA), 4)


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_alpha_of_grey_and_palette_tiff_is_composited_on_white(mode):
    image = Image.fromarray(with_alpha(GREY), "LA") if mode == "LA" else in_palette().convert("PA")
    expected = as_rgb(GREY) if mode == "LA" else PALETTE[INDICES]
    image.putalpha(Image.fromarray(ALPHA))
    assert_shows(save(image, "TIFF"), on_white(expected, ALPHA), 1)


def test_transparent_entry_of_gif_is_composited_on_white():
    expected = on_white(PALETTE[INDICES], np.where(INDICES == 40, 0, 255))
    assert_shows(save(in_palette(), "GIF", transparency=40), expected)


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


# Pillow 11 was built without it, and corrupts memory when it fails to write.
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


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "AVIF", "PNG", "MPO", "HEIF"])
def test_of_several_frames_the_first_is_shown(format):
    options = ORIENTED.get("JPEG" if format == "MPO" else format, {})
    first, second = (in_palette(), in_palette().rotate(180)) if format == "GIF" else (picture(), OTHER)
    content = save(first, format, save_all=True, append_images=[Image.fromarray(np.asarray(second))], **options)
    assert_shows(content, PALETTE[INDICES] if format == "GIF" else picture(), 4)


def test_of_several_images_in_heic_the_primary_is_shown():
    content = save(OTHER, "HEIF", save_all=True, append_images=[Image.fromarray(picture())], primary_index=1)
    assert_shows(content, picture(), 12)


def test_every_ending_belongs_to_a_format_that_is_decoded():
    Image.init()
    assert {Image.registered_extensions()[ending] for ending in ENDINGS} == set(FORMATS)


# ------------------------------------------------------------------------------------------------- grey of many bits


def test_sixteen_bit_greys_are_scaled_not_clipped():
    values = np.arange(65536, dtype=np.uint16).reshape(1024, 64)
    assert_shows(png(values[..., None], 16), as_rgb(np.rint(values / 257)))


def test_floats_from_0_to_1_keep_their_brightness():
    values = np.float32(GREY) / 255 * 0.25 + 0.5
    assert_shows(tiff(values), as_rgb(np.rint(values * 255)), 1)


@pytest.mark.parametrize("values", [GREY * np.float32(1e4) - 7, GREY * np.float32(1e36) - np.float32(1e38)])
def test_floats_of_another_range_are_stretched(values):
    assert_shows(tiff(values), as_rgb(GREY), 1)


def test_32_bit_integers_are_stretched_even_when_they_differ_little():
    assert_shows(tiff(np.int32(GREY) + 2**30), as_rgb(GREY))


def test_32_bit_integers_of_8_bit_values_are_not_black():
    assert_shows(tiff(np.int32(GREY)), as_rgb(GREY))


@pytest.mark.filterwarnings("error")
def test_not_a_number_is_black_and_infinities_are_extremes():
    values = np.float32(GREY) * 2
    values[:3, 0] = np.nan, np.inf, -np.inf
    values[3, 0] = np.uint32(0x7FA00000).view(np.float32)  # a signalling NaN
    expected = GREY.copy()
    expected[:4, 0] = 0, 255, 0, 0
    assert_shows(tiff(values), as_rgb(expected))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0, 1, -5, 70000, 3e38, 1e-45, np.nan, np.inf, -np.inf])
def test_constant_floats_become_one_grey(value):
    assert np.ptp(decode(tiff(np.full((8, 8), value, np.float32))).pixels) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0, -5, 2**31 - 1, -(2**31)])
def test_constant_integers_become_one_grey(value):
    assert np.ptp(decode(tiff(np.full((8, 8), value, np.int32))).pixels) == 0


@pytest.mark.filterwarnings("error")
@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32), min_size=4, max_size=4))
def test_floats_of_any_value_neither_fail_nor_warn(values):
    assert decode(tiff(np.array(values, np.float32).reshape(2, 2))).pixels.shape == (2, 2, 3)


# --------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", sorted(ORIENTED))
def test_orientation_is_applied_once(format, orientation):
    stored = STORED[orientation](picture())
    assert_shows(save(stored, format, exif=exif(orientation), **ORIENTED[format]), picture(), 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", sorted(ORIENTED))
def test_orientation_is_applied_as_by_exif_transpose(format, orientation):
    content = save(picture(), format, exif=exif(orientation), **ORIENTED[format])
    with Image.open(io.BytesIO(content)) as image:
        assert_shows(content, np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_a_rotation_in_both_container_and_exif_is_applied_once(format, orientation):
    stored = STORED[orientation](picture())
    content = save(stored, format, exif=exif(orientation, other=orientation), **ORIENTED[format])
    assert (b"irot" in content or b"imir" in content) == (orientation > 1)
    assert_shows(renamed(content), picture(), 4)


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_heic_and_avif_are_turned_by_their_container_not_by_exif(format, orientation):
    content = renamed(save(picture(), format, exif=exif(other=orientation), **ORIENTED[format]))
    assert b"irot" not in content and b"imir" not in content
    assert_shows(content, picture(), 4)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
@pytest.mark.parametrize("pages", [1, 2])
def test_tiff_is_turned_once_whatever_its_compression_and_pages(compression, pages):
    options = {"save_all": True, "append_images": [Image.fromarray(OTHER)] * (pages - 1)}
    content = save(STORED[6](picture()), "TIFF", exif=exif(6), compression=compression, **options)
    assert_shows(content, picture(), 14)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_in_xmp_counts_where_exif_has_none(format):
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    stored = STORED[6](picture())
    if format == "PNG":
        text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        assert_shows(png(stored, late=text), picture())
    else:
        options = {"tiffinfo": {700: xmp}} if format == "TIFF" else {"xmp": xmp}
        assert_shows(save(stored, format, **ORIENTED[format], **options), picture(), 4)


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
@pytest.mark.parametrize("xmp", [b'tiff:Orientation="6"', b"<tiff:Orientation>6 </tiff:Orientation>"])
def test_heic_and_avif_are_not_turned_by_xmp(format, xmp):
    content = save(picture(), format, xmp=b" " * len(xmp), **ORIENTED[format])
    assert_shows(content.replace(b" " * len(xmp), xmp), picture(), 4)


def test_png_exif_after_the_pixels_is_heeded():
    late = png_chunk(b"eXIf", exif(6, "2021:02:03 04:05:06")[6:])
    content = png(STORED[6](picture()), late=late)
    assert_shows(content, picture())
    assert decode(content).taken_at == datetime(2021, 2, 3, 4, 5, 6)


def test_the_first_picture_of_mpo_is_turned():
    content = save(STORED[6](picture()), "MPO", save_all=True, append_images=[Image.fromarray(OTHER)], exif=exif(6))
    assert_shows(content, picture(), 12)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("format", sorted(set(ORIENTED) - {"HEIF", "AVIF"}))
def test_an_orientation_that_does_not_exist_is_passed_over(format, orientation):
    assert_shows(save(picture(), format, exif=exif(orientation), **ORIENTED[format]), picture(), 4)


# ---------------------------------------------------------------------------------------------- smaller decoding


SIZES = [(1600, 1200, 100), (1600, 1200, 150), (1600, 1200, 300), (1600, 1200, 301), (801, 1203, 50), (813, 641, 20)]


@pytest.mark.parametrize(("width", "height", "at_least"), SIZES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_is_decoded_as_small_as_keeps_twice_at_least(width, height, at_least, orientation):
    content = save(picture(width, height), "JPEG", exif=exif(orientation))
    smaller = max(scale for scale in (1, 2, 4, 8) if min(width, height) >= 2 * at_least * scale)
    shape = (-(-height // smaller), -(-width // smaller))
    pixels = decode(content, at_least).pixels
    assert pixels.shape[:2] == (shape if orientation == 1 else shape[::-1])
    assert min(pixels.shape[:2]) >= 2 * at_least


@pytest.mark.parametrize(("width", "height", "at_least"), SIZES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_width_and_height_are_upright_and_full_however_small_it_is_decoded(width, height, at_least, orientation):
    photo = decode(save(picture(width, height), "JPEG", exif=exif(orientation)), at_least)
    assert (photo.width, photo.height) == ((width, height) if orientation == 1 else (height, width))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"exif": exif(6)}], ids=["baseline", "progressive", "6"]
)
@pytest.mark.parametrize("at_least", [50, 100, 200])
def test_jpeg_decoded_smaller_is_close_to_the_full_picture_resized(at_least, options):
    content = save(picture(1600, 1200), "JPEG", **options)
    small, full = decode(content, at_least).pixels, decode(content).pixels
    assert small.shape < full.shape
    resized = np.asarray(Image.fromarray(full).resize(small.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(small.astype(int) - resized).max() <= 4


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_modes_is_decoded_smaller_too(mode):
    image = Image.fromarray(picture(1600, 1200)).convert(mode)
    assert decode(save(image, "JPEG"), 100).pixels.shape == (300, 400, 3)


def test_a_picture_smaller_than_asked_for_is_decoded_in_full():
    assert decode(save(picture(), "JPEG"), 500).pixels.shape == (32, 48, 3)


def test_mpo_is_decoded_smaller_too():
    content = save(picture(1600, 1200), "MPO", save_all=True, append_images=[Image.fromarray(OTHER)])
    assert decode(content, 100).pixels.shape == (300, 400, 3)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_decoded_in_full(format):
    assert decode(save(picture(400, 300), format), 20).pixels.shape == (300, 400, 3)


def test_the_thumbnail_in_heic_is_not_taken_for_the_picture():
    content = save(picture(400, 300), "HEIF", thumbnails=[100])
    assert len(pillow_heif.open_heif(content).info["thumbnails"]) == 1
    assert decode(content, 20).pixels.shape == (300, 400, 3)


# ------------------------------------------------------------------------------------------------- the cap on pixels


def test_as_many_pixels_as_the_limit_are_decoded():
    assert decode(save(picture(), "PNG"), max_pixels=48 * 32).width == 48


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_pixel_above_the_limit_is_too_many(variant):
    with pytest.raises(TooManyPixels) as raised:
        decode(files()[variant], max_pixels=48 * 32 - 1)
    assert raised.value.pixels == 48 * 32


@settings(max_examples=50)
@given(st.integers(1, 10**11), st.integers(1, 10**9))
def test_the_limit_that_the_message_names_is_high_enough(pixels, limit):
    message = str(TooManyPixels(pixels, limit))
    assert len(message.splitlines()) == 1
    assert int(re.fullmatch(r"has .* raise it with --max-pixels (\d+)", message)[1]) * 10**6 >= pixels


def test_the_message_names_megapixels_limit_and_flag():
    assert str(TooManyPixels(100_400_000, MAX_PIXELS)) == (
        "has 101 megapixels to decode, more than the limit of 100: raise it with --max-pixels 101"
    )


BOMBS = {
    "png": lambda: png(picture(), size=(30000, 30000)),
    "png interlaced": lambda: png(picture(), size=(30000, 30000), interlaced=True),
    "gif": lambda: gif((30000, 30000), (30000, 30000)),
    "gif frame": lambda: gif((1, 1), (30000, 30000)),
    "bmp": lambda: bmp(30000, 30000),
    "tiff": lambda: tiff(GREY, size=(30000, 30000)),
    "webp": lambda: animated_webp(30000, 30000),
    "jpeg": lambda: jpeg_claiming(30000, 30000),
    "jpeg progressive": lambda: jpeg_claiming(30000, 30000, progressive=True),
}


@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_a_tiny_file_that_claims_to_be_huge_is_refused_before_memory_is_taken(bomb, monkeypatch):
    content = BOMBS[bomb]()

    def take(*arguments):
        raise AssertionError("memory was taken")

    for name in ("new", "fill"):
        monkeypatch.setattr(Image.core, name, take)
    with pytest.raises(TooManyPixels) as raised:
        decode(content)
    assert len(content) < 5000 and raised.value.pixels == 900_000_000


def test_a_large_jpeg_is_judged_by_what_is_decoded():
    content = save(picture(1600, 1200), "JPEG")
    assert decode(content, 100, max_pixels=400 * 300).width == 1600
    with pytest.raises(TooManyPixels) as raised:
        decode(content, 100, max_pixels=400 * 300 - 1)
    assert raised.value.pixels == 400 * 300


def test_a_progressive_jpeg_is_judged_in_full_because_it_is_held_in_full():
    with pytest.raises(TooManyPixels) as raised:
        decode(save(picture(1600, 1200), "JPEG", progressive=True), 100, max_pixels=400 * 300)
    assert raised.value.pixels == 1600 * 1200


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    to_rgb, inside, most = images._to_rgb, 0, 0

    def counted(image):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        rgb = to_rgb(image)
        inside -= 1
        return rgb

    monkeypatch.setattr(images, "LARGE", 600 * 400 - 1)
    monkeypatch.setattr(images, "_to_rgb", counted)
    content = save(picture(600, 400), "PNG")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode, [content] * 12))
    assert most == 1


# ------------------------------------------------------------------------------------------------------- taken_at


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


# --------------------------------------------------------------------------------------------------- damaged EXIF


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


@pytest.mark.parametrize("place", [0, 3, 10**6, 2**32 - 1])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_damaged_exif_does_not_lose_a_tiff(place, compression):
    assert_shows(save(picture(), "TIFF", tiffinfo={0x8769: place}, compression=compression), picture())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_exif_whatsoever_loses_the_picture(data):
    payload = bytearray(exif(3, "2021:02:03 04:05:06", "2022:03:04 05:06:07", other=2))
    for _ in range(data.draw(st.integers(1, 5))):
        payload[data.draw(st.integers(6, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(6, len(payload)))]
    format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    assert decode(with_exif(format, bytes(payload), picture(16, 16))).pixels.shape == (16, 16, 3)


# ------------------------------------------------------------------------------------- what cannot be read, and why


def test_an_empty_file_is_said_to_be_empty():
    assert assert_unreadable(b"") == "is empty"


@pytest.mark.parametrize(
    "content",
    [b"\0", b"\0" * 5000, b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"PK\3\4" + bytes(60)],
)
def test_what_is_no_image_is_unreadable(content):
    assert "is not an image in a known format" in assert_unreadable(content)


@pytest.mark.parametrize("format", ["PPM", "TGA", "PCX", "ICO", "EPS", "JPEG2000"])
def test_formats_that_only_pillow_knows_are_unreadable(format):
    assert "is not an image in a known format" in assert_unreadable(save(picture(), format))


PICTURE_BEFORE_THE_END = {"mpo", "gif animated", "webp animated", "avif animated", "heic"}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - PICTURE_BEFORE_THE_END))
def test_a_truncated_file_is_unreadable(variant, share):
    content = files()[variant]
    assert_unreadable(content[: int(share * len(content))])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_bytes_alone_are_unreadable(variant):
    for length in range(1, 40):
        assert_unreadable(files()[variant][:length])


def test_an_image_that_memory_does_not_hold_is_unreadable(monkeypatch):
    def exhausted(*arguments):
        raise MemoryError

    content = save(picture(), "PNG")
    monkeypatch.setattr(Image.core, "new", exhausted)
    assert "memory" in assert_unreadable(content)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("one\ntwo  \x0b three\n"), "one two three"), (ValueError("\n"), "ValueError"), (OSError(), "OSError")],
)
def test_the_reason_is_one_line_whatever_the_decoder_says(error, reason, monkeypatch):
    def fail(image):
        raise error

    content = save(picture(), "PNG")
    monkeypatch.setattr(images, "_to_rgb", fail)
    assert assert_unreadable(content) == f"is damaged: {reason}"


def test_an_interrupt_is_not_taken_for_damage(monkeypatch):
    def interrupt(image):
        raise KeyboardInterrupt

    content = save(picture(), "PNG")
    monkeypatch.setattr(images, "_to_rgb", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(content)


@settings(max_examples=300, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    head=st.booleans(),
    share=st.one_of(st.just(1.0), st.floats(0, 1)),
    at_least=st.sampled_from([0, 4]),
)
def test_a_damaged_file_is_decoded_or_unreadable_and_nothing_else(variant, flips, head, share, at_least):
    content = bytearray(files()[variant])
    for place, value in flips:
        content[int(place * (min(len(content), 300) if head else len(content)))] = value
    try:
        photo = decode(bytes(content[: int(share * len(content))]), at_least, max_pixels=10**6)
    except UnreadableImage as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert photo.pixels.dtype == np.uint8 and photo.pixels.shape[2:] == (3,)


# ------------------------------------------------------------------------------------------- threads and the process


def run_python(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()


def test_eight_threads_decode_as_one_does():
    contents = list(files().values())
    one_by_one = [decode(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, contents * 8))
    for index, photo in enumerate(together):
        alone = one_by_one[index % len(contents)]
        assert np.array_equal(photo.pixels, alone.pixels)
        assert (photo.width, photo.height, photo.taken_at) == (alone.width, alone.height, alone.taken_at)


def test_eight_threads_may_decode_the_first_images_of_a_process(tmp_path):
    kinds = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "heic", "avif")
    for kind in kinds:
        (tmp_path / kind).write_bytes(files()[kind])
    program = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from retrieval.images import decode
paths = sorted(Path(sys.argv[1]).iterdir())
together = threading.Barrier(len(paths))
def first(path):
    content = path.read_bytes()
    together.wait()
    return path.name, decode(content).width
with ThreadPoolExecutor(len(paths)) as pool:
    for name, width in pool.map(first, paths):
        print(f"{name}:{width}")
"""
    turned = ("jpeg", "png", "webp", "tiff", "heic", "avif")
    assert run_python(program, str(tmp_path)) == [f"{kind}:{32 if kind in turned else 48}" for kind in sorted(kinds)]


def test_importing_the_module_imports_neither_pillow_nor_libheif():
    program = "import sys, retrieval.images; print(*{name.partition('.')[0] for name in sys.modules})"
    assert not {"PIL", "pillow_heif", "_pillow_heif"} & set(run_python(program))


def test_of_the_settings_of_pillow_only_those_documented_change(tmp_path):
    (tmp_path / "image").write_bytes(files()["jpeg"])
    program = """
import sys, warnings
from pathlib import Path
import retrieval.images
from PIL import Image
Image.init()
def settings():
    modules = {name: module for name, module in sys.modules.items() if name.startswith("PIL.") and module}
    plain = (bool, int, float, str, tuple, type(None))
    found = {f"{name}.{key}": repr(value) for name, module in modules.items() for key, value in vars(module).items()
             if key.isupper() and isinstance(value, plain)}
    return found | {f"open.{name}": "" for name in Image.OPEN} | {"filters": repr(warnings.filters)}
before = settings()
retrieval.images.decode(Path(sys.argv[1]).read_bytes())
after = settings()
print(*sorted(key for key in after if after[key] != before.get(key) and key.rpartition(".")[0] in {
    key.rpartition(".")[0] for key in before}))
"""
    assert run_python(program, str(tmp_path / "image")) == ["PIL.Image.MAX_IMAGE_PIXELS", "open.HEIF"]
