"""Decode an image file to an upright RGB array."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

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
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
MAX_PIXELS = 100_000_000
LARGE = 20_000_000

_opener = threading.Lock()
_opener_ready = False
_one_large_image = threading.Semaphore(1)


@dataclass(frozen=True)
class Photo:
    """pixels: uint8 [h, w, 3], upright; large JPEG files may be decoded at a half, a quarter or an eighth.
    width, height: of the upright picture at full size. taken_at: the camera's local time, if the file says."""

    pixels: NDArray[np.uint8]
    width: int
    height: int
    taken_at: datetime | None


class UnreadableImage(Exception):
    """The file is not an image that can be decoded; the message says why."""


class TooManyPixels(UnreadableImage):
    def __init__(self, pixels: int, limit: int) -> None:
        self.pixels = pixels
        super().__init__(
            f"has {pixels / 1e6:.0f} megapixels to decode, more than the limit of {limit / 1e6:.0f}: "
            f"raise it with --max-pixels {pixels / 1e6:.0f}"
        )


def decode(content: bytes, at_least: int = 0, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode the bytes of one file: first frame, EXIF orientation applied, alpha composited on white, 8 bits.

    With `at_least`, JPEG files may be decoded smaller by a power of two, as long as both sides keep twice that many
    pixels. Raises `UnreadableImage` with the reason, `TooManyPixels` above `max_pixels` to be decoded."""
    _register_heif()
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _decode(image, at_least, max_pixels)
    except UnidentifiedImageError as error:
        raise UnreadableImage("is empty" if not content else "is not an image in a known format") from error
    except UnreadableImage:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged input: struct.error, SyntaxError, ValueError ...
        raise UnreadableImage(f"is damaged: {_one_line(error)}") from error


def _decode(image: Image, at_least: int, max_pixels: int) -> Photo:
    width, height = image.size
    orientation = _orientation(image)
    taken_at = _taken_at(image)
    if at_least:
        image.draft("RGB", (2 * at_least, 2 * at_least))
    count = image.width * image.height
    if count > max_pixels:
        raise TooManyPixels(count, max_pixels)
    if count > LARGE:
        with _one_large_image:
            pixels = _pixels(image, orientation)
    else:
        pixels = _pixels(image, orientation)
    if orientation >= 5:
        width, height = height, width
    return Photo(pixels, width, height, taken_at)


def _pixels(image: Image, orientation: int) -> NDArray[np.uint8]:
    upright = _to_rgb(image)
    method = _TRANSPOSITIONS.get(orientation)
    if method is not None:
        upright = upright.transpose(method)  # type: ignore[arg-type]
    return np.asarray(upright)


# EXIF orientation -> PIL.Image.Transpose, by value so that PIL is imported only when an image is decoded.
# 2 mirrored, 3 turned by 180 degrees, 4 flipped, 5 transposed, 6 to be turned clockwise by 90, 7 transverse, 8 by 270.
_TRANSPOSITIONS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def _orientation(image: Image) -> int:
    """1 to 8. HEIF and AVIF decoders have already turned the picture; Pillow turns TIFF as it loads it."""
    if image.format in ("HEIF", "AVIF", "TIFF"):
        return 1
    value = image.getexif().get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _taken_at(image: Image) -> datetime | None:
    try:
        exif = image.getexif()
        text = exif.get_ifd(0x8769).get(0x9003) or exif.get(0x0132)
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S") if text else None
    except Exception:  # a damaged or fanciful date is no reason to lose the picture
        return None


def _to_rgb(image: Image) -> Image:
    from PIL import Image as pillow

    image.load()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return pillow.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = pillow.new("RGBA", rgba.size, (255, 255, 255, 255))
        return pillow.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values of 16 or 32 bits. Integers of up to 16 bits are divided by 257; anything else says nothing of its
    range, so its smallest value becomes black and its largest white."""
    numbers = values.astype(np.float32)
    low, high = float(numbers.min()), float(numbers.max())
    if values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        return (numbers / 257 + 0.5).astype(np.uint8)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return (numbers * 255 + 0.5).astype(np.uint8)
    numbers = np.nan_to_num((numbers - low) / max(high - low, 1e-12))
    return (numbers * 255 + 0.5).astype(np.uint8)


def _register_heif() -> None:
    """Teach Pillow HEIC once; and leave the cap on pixels to `max_pixels`, which is told of JPEG's smaller sizes."""
    global _opener_ready
    if _opener_ready:
        return
    with _opener:
        from PIL import Image, ImageFile
        from pillow_heif import register_heif_opener

        register_heif_opener()
        Image.MAX_IMAGE_PIXELS = None
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        _opener_ready = True


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
