"""Builders of files in all formats, and assertions about what they show."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from functools import cache
from typing import Any

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from retrieval.images import UnreadableImage, decode
from tests.retrieval.images.pictures import GREY, OTHER, in_palette, picture, with_alpha

pillow_heif.register_heif_opener()


def save(image, format="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(samples, depth=8, palette=None, transparency=None, interlaced=False, late=b"", size=None):
    """A PNG file. samples: [h, w, channels]. late: chunks after the pixels. size: (width, height) to claim."""
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


def tiff(samples, order="<", photometric=None, **options):
    """A TIFF file, by default uncompressed. samples: [h, w] or [h, w, channels], any dtype. order: < little, > big
    endian."""
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, samples, byteorder=order, photometric=photometric, metadata=None, software=False, **options
    )
    return buffer.getvalue()


def tiff_with(content, **tags):
    """The same file with other values for tags that it has, by their names."""
    buffer = io.BytesIO(content)
    with tifffile.TiffFile(buffer) as opened:
        for name, value in tags.items():
            opened.pages.first.tags[name].overwrite(value)
    return buffer.getvalue()


def gif(screen, frame):
    """A GIF file that claims these sizes, (width, height), and holds no pixels."""
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
    """The inks that show `rgb` where `black` is 0."""
    return Image.fromarray(np.dstack([255 - rgb, np.full(rgb.shape[:2], black, np.uint8)]), "CMYK")


def ycck(rgb):
    """A JPEG file as Photoshop writes it: inverted, with CMY as luma and chroma."""
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
    """An image with these EXIF bytes, which may be damaged."""
    values = picture() if values is None else values
    if format != "AVIF":
        return save(values, format, exif=payload)
    sound = exif(taken="2" * (len(payload) - len(exif(taken="")) if len(payload) > 100 else 60))
    content = save(values, format, exif=sound)
    offset = content.index(sound[6:])
    return content[:offset] + payload.ljust(len(sound))[6 : len(sound)] + content[offset + len(sound) - 6 :]


ORIENTED: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIF": {"quality": -1, "chroma": 444},
}


@cache
def files():
    """A valid file of every format, and of variants that the decoders treat differently."""
    two = {"save_all": True, "append_images": [Image.fromarray(OTHER)]}
    dated = exif(6, "2021:02:03 04:05:06", "2022:03:04 05:06:07")
    return {
        "jpeg": save(picture(), "JPEG", exif=dated),
        "jpeg progressive": save(picture(), "JPEG", progressive=True),
        "jpeg cmyk": save(cmyk(picture(), 0), "JPEG"),
        "mpo": save(picture(), "MPO", **two),
        "png": save(picture(), "PNG", exif=dated),
        "png palette": save(in_palette(), "PNG", transparency=3),
        "png 16 bits": png(GREY.astype(np.uint16)[..., None] * 257, 16),
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


def run_python(program, *arguments):
    """Runs a program in a process of its own; returns the words that it prints."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
