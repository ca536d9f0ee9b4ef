"""Decode an image file to an upright RGB array."""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("heic", "heics", "heif", "heifs", "hif", "avif", "avifs"),
    )
)
# AVIF before HEIF: files of the brand mif1 may be either, and only libavif says at once that a file is not its own.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "DIB")
MAX_PIXELS = 100_000_000
LARGE = 20_000_000

_one_large_image = threading.Semaphore(1)


@dataclass(frozen=True)
class Photo:
    """pixels: uint8 [h, w, 3], upright; large JPEG files may be decoded at a half, a quarter or an eighth.
    width, height: of the upright picture at full size. taken_at: the camera's local time, if the file says."""

    pixels: NDArray[np.uint8]
    width: int
    height: int
    taken_at: datetime | None
    note: str = ""


class UnreadableImage(Exception):
    """The file is not an image that can be decoded; the message says why."""


class TooManyPixels(UnreadableImage):
    def __init__(self, pixels: int, limit: int) -> None:
        self.pixels = pixels
        needed = -(-pixels // 1_000_000)
        super().__init__(
            f"has {needed} megapixels to decode, more than the limit of {limit / 1e6:g}: "
            f"raise it with --max-pixels {needed}"
        )


def decode(content: bytes, at_least: int = 0, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode the bytes of one file: first frame, EXIF orientation applied, alpha composited on white, 8 bits.

    With `at_least`, JPEG files may be decoded smaller by a power of two, as long as both sides keep twice that many
    pixels. Raises `UnreadableImage` with the reason, `TooManyPixels` above `max_pixels` to be decoded, before memory
    is taken for them. Pillow's own cap on pixels is lifted for the whole process."""
    _prepare_pillow()
    from PIL import UnidentifiedImageError

    try:
        with _open(content) as image:
            return _decode(image, at_least, max_pixels)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        reason = "is not an image in a known format, or is damaged" if content else "is empty"
        raise UnreadableImage(reason) from error
    except MemoryError as error:
        raise UnreadableImage("needs more memory than is free: read it again with --retry-failed") from error
    except Exception as error:  # decoders raise anything on damaged input: struct.error, SyntaxError, ValueError ...
        raise UnreadableImage(f"is damaged: {_one_line(error)}") from error


def _open(content: bytes) -> Image:
    from PIL import Image as pillow

    try:
        return pillow.open(io.BytesIO(content), formats=FORMATS)
    except Exception:
        if b"Exif" not in content:
            raise
        # Some damaged EXIF makes Pillow give up a JPEG or AVIF file; by another name it is passed over.
        return pillow.open(io.BytesIO(content.replace(b"Exif", b"none")), formats=FORMATS)


def _decode(image: Image, at_least: int, max_pixels: int) -> Photo:
    is_jpeg = image.format in ("JPEG", "MPO")
    width, height = image.size
    if at_least and is_jpeg:  # for HEIF, `draft` would take a thumbnail, which may not show the same
        image.draft("RGB", (2 * at_least, 2 * at_least))
    # A progressive JPEG file is held at full size while it is decoded, however small the result.
    count = width * height if image.info.get("progressive") else image.width * image.height
    if count > max_pixels:
        raise TooManyPixels(count, max_pixels)
    with _one_large_image if count > LARGE else nullcontext():
        rgb = _to_rgb(image)
        if not is_jpeg:  # TIFF and HEIF may know their size, or which side is up, only now
            width, height = rgb.size
        orientation = _orientation(image)
        if orientation >= 5:
            width, height = height, width
        if orientation > 1:
            rgb = rgb.transpose(_TRANSPOSITIONS[orientation])  # type: ignore[arg-type]
        return Photo(np.asarray(rgb), width, height, _taken_at(image))


# EXIF orientation -> PIL.Image.Transpose, by value so that PIL is imported only when an image is decoded.
# 2 mirrored, 3 turned by 180 degrees, 4 flipped, 5 transposed, 6 to be turned clockwise by 90, 7 transverse, 8 by 270.
_TRANSPOSITIONS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def _orientation(image: Image) -> int:
    """1 to 8, of the pixels as loaded; Pillow turns TIFF as it loads it, and takes the tag away. In HEIF and AVIF only
    the container's rotation counts: libheif has applied it, while Pillow passes AVIF's on as if it were EXIF."""
    if image.format == "HEIF":
        return 1
    if image.format == "AVIF":
        image.info.pop("xmp", None)  # where Pillow would look next
    value = _tag(image, 0x0112)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _taken_at(image: Image) -> datetime | None:
    """DateTimeOriginal or, failing that, DateTime."""
    for text in (_tag(image, 0x9003, 0x8769), _tag(image, 0x0132)):
        try:
            return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        except ValueError:
            continue
    return None


def _tag(image: Image, tag: int, directory: int | None = None) -> Any:
    """A value of the EXIF of a loaded image; None where there is none, or where it is damaged, which is no reason to
    lose the picture. (Asked before, Pillow would load a PNG file to look for it.)"""
    try:
        exif = image.getexif()
        return (exif if directory is None else exif.get_ifd(directory)).get(tag)
    except Exception:
        return None


def _to_rgb(image: Image) -> Image:
    from PIL import Image as pillow

    image.load()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image)
        eight_bits = _to_eight_bits(values)
        if "transparency" in image.info:
            eight_bits[values == image.info["transparency"]] = 255
        return pillow.fromarray(eight_bits).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = pillow.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image.convert("RGB")


def _to_eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of 16 or 32 bits. Unsigned 16-bit integers are divided by 257, floats in [0, 1] multiplied by 255.
    Anything else says nothing of its range, so its smallest value becomes black and its largest white. Not a number
    becomes black; infinities count as the smallest and the largest value."""
    low, high = 0.0, 65535.0
    if values.dtype.kind != "u":
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if values.dtype.kind == "f" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
    eight_bits = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), 256):  # float64 holds every such value, in bands so that it takes little memory
        with np.errstate(invalid="ignore"):  # of signalling NaNs
            band = values[top : top + 256].astype(np.float64)
        scaled = np.nan_to_num(np.clip((band - low) / ((high - low) or 1.0), 0, 1))
        eight_bits[top : top + 256] = scaled * 255 + 0.5
    return eight_bits


@cache
def _prepare_pillow() -> None:
    """Teach Pillow HEIC; and leave the cap on pixels to `max_pixels`, which is told of JPEG's smaller sizes."""
    from PIL import Image, ImageFile
    from pillow_heif import register_heif_opener

    register_heif_opener()
    Image.MAX_IMAGE_PIXELS = None
    ImageFile.LOAD_TRUNCATED_IMAGES = False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
