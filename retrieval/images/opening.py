"""From a file's bytes to an opened picture, which Pillow is about to decode."""

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

# Format -> module and class that open it, and the compiled module behind them.
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
# Bytes. A progressive picture may repeat its scans without end, so libjpeg gets it in pieces, and the clock is checked.
_SMALL_PIECES = 2048


@dataclass(frozen=True)
class Opened:
    """A picture, in most formats without its pixels yet. damage: what was mended, if it shows in the picture."""

    image: ImageFile
    format: str
    damage: str | None = None


def open_picture(content: bytes, formats: tuple[str, ...], max_pixels: int, clock: Clock) -> Opened:
    """Opens a picture with the decoder of the first of these formats that accepts it. WebP and JPEG XL take memory for
    the pixels now, other formats when they are loaded.

    Raises `UnreadableImage` if no decoder accepts it; `TooSlow`; and what tells nothing about the file:
    `ImportError`, `MemoryError`, `OSError` with an errno."""
    reasons = []
    for format in formats:
        opener = _opener(format)
        for variant, damage in _variants(content, format, clock):
            try:
                return Opened(open_with(opener, variant, format, clock), format, damage)
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
    # Imported first, and by itself. Otherwise, if no file handle is free now, Pillow takes it for missing from then on.
    try:
        import_module(compiled)
        return cast("type[ImageFile]", getattr(import_module(module), name))
    except (OSError, MemoryError, ImportError):
        raise
    except Exception as error:  # a broken decoder says nothing about the file
        raise ImportError(f"{compiled} cannot be imported: {error}") from error


def _variants(content: bytes, format: str, clock: Clock) -> Iterator[tuple[bytes, str | None]]:
    """The content, then mended variants of it, each with the damage that its picture shows."""
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
        # Some damaged EXIF makes Pillow give up a JPEG or AVIF file. Under another name, Pillow ignores it.
        yield content.replace(b"Exif", b"none"), None


def open_with(opener: type[ImageFile], content: bytes, format: str, clock: Clock) -> ImageFile:
    """Opens a picture with Pillow's class for the format, set up so that damage and time are bounded. Raises
    anything."""
    reader = Reader(content, clock)
    image = opener(reader)
    if format == "JPEG":
        reader.ending = b"\xff\xd9"  # so that libjpeg decodes a picture without its end as far as it goes
        if image.info.get("progressive"):
            image.decodermaxblock = _SMALL_PIECES
    return image
