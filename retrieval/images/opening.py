"""From a file's bytes to a picture that Pillow is about to decode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from retrieval.images import png
from retrieval.images.jpeg import without_filling
from retrieval.images.photo import TooManyPixels, UnreadableImage, is_of_the_content, one_line
from retrieval.images.reader import Clock, Reader

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# The module and the class that open each format, and the compiled module behind them.
_OPENERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile", "PIL._imaging"),  # also of MPO files, for their first picture
    "PNG": ("PIL.PngImagePlugin", "PngImageFile", "PIL._imaging"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile", "PIL._imaging"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile", "PIL._imaging"),
    "DIB": ("PIL.BmpImagePlugin", "DibImageFile", "PIL._imaging"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile", "PIL._imaging"),
    "PSD": ("PIL.PsdImagePlugin", "PsdImageFile", "PIL._imaging"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile", "PIL._webp"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile", "PIL._avif"),
    "HEIF": ("pillow_heif", "HeifImageFile", "_pillow_heif"),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile", "PIL._imaging"),
    "JXL": ("pillow_jxl.JpegXLImagePlugin", "JXLImageFile", "pillow_jxl"),
}
_NAMES = {"AVIF": "an AVIF", "HEIF": "an HEIC", "JPEG2000": "a JPEG 2000", "JXL": "a JPEG XL", "WEBP": "a WebP"}
# Progressive pictures may repeat their scans without end, so they are given to libjpeg in pieces of so many bytes.
_SMALL_PIECES = 2048


@dataclass(frozen=True)
class Opened:
    """A picture, mostly without its pixels yet. damage: what was mended that shows in the picture."""

    image: ImageFile
    format: str
    damage: str | None = None


def open_picture(content: bytes, formats: tuple[str, ...], max_pixels: int, clock: Clock) -> Opened:
    """The picture, by the first of these formats that knows it. WebP and JPEG XL take memory for the pixels here, other
    formats when they are loaded.

    Raises `UnreadableImage` where no format knows it, `TooSlow`, and what passes: `ImportError`, `MemoryError`,
    `OSError` with an errno."""
    reasons = []
    for format in formats:
        opener = _opener(format)
        for variant, damage in _variants(content, format, clock):
            try:
                return Opened(_open(variant, format, opener, clock), format, damage)
            except Exception as error:  # decoders raise anything on damaged input
                if not is_of_the_content(error):
                    raise
                if type(error).__name__ == "DecompressionBombError" and (
                    count := re.search(r"(\d+) pixels", str(error))
                ):
                    raise TooManyPixels(int(count[1]), max_pixels) from error
                reasons.append(one_line(error))
    name = _NAMES.get(formats[0], f"a {formats[0]}")
    raise UnreadableImage(f"is {name} file that is damaged, or of a kind that is not read: {reasons[0]}")


def _opener(format: str) -> type[ImageFile]:
    module, name, compiled = _OPENERS[format]
    if format == "JXL" and find_spec(compiled) is None:
        raise UnreadableImage("is a JPEG XL file, which needs a plug-in: pip install 'crosslook[jxl]'")
    # First, and by itself: Pillow would take it for missing for good if it cannot be loaded for want of file handles.
    import_module(compiled)
    return cast("type[ImageFile]", getattr(import_module(module), name))


def _variants(content: bytes, format: str, clock: Clock) -> Iterator[tuple[bytes, str | None]]:
    """The content, then what it may be mended to; and what then is wrong with the picture."""
    if format == "JPEG":
        content = without_filling(content, clock)
    if format == "PNG" and not png.is_ordinary(content, clock):
        content = png.without_needless(content, clock)
    yield content, None
    if format == "PNG":
        yield png.without_needless(content, clock), None
    if format == "WEBP":
        size = 8 + int.from_bytes(content[4:8], "little")
        if len(content) < size <= 2 * len(content):  # libwebp smears what it has over the rest
            yield content.ljust(size, b"\0"), "image file is truncated"
    if b"Exif" in content:
        # Some damaged EXIF makes Pillow give up a JPEG or AVIF file; by another name it is passed over.
        yield content.replace(b"Exif", b"none"), None


def _open(content: bytes, format: str, opener: type[ImageFile], clock: Clock) -> ImageFile:
    reader = Reader(content, clock)
    image = opener(reader)
    if format == "JPEG":
        reader.ending = b"\xff\xd9"  # so that libjpeg gives what there is of a picture that lacks its end
        if image.info.get("progressive"):
            image.decodermaxblock = _SMALL_PIECES
    return image
