"""How large is a picture before it is decoded, how small may it be decoded, and how much memory does that take?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from retrieval.images.frames import may_have_frames
from retrieval.images.photo import TooManyPixels, UnreadableImage

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_SIDE = 2**31 - 1
# Pixels. Larger pictures are made smaller as soon as they are decoded, where `min_side` allows it. In formats whose
# decoders take much memory, they count more against the limit.
LARGE = 4_000_000
# Memory at the peak of decoding, per pixel of the limit.
BYTES_A_PIXEL = 6.5
# Bytes that a decoder holds per pixel, for formats where that is more than Pillow's picture alone. Measured, with a
# margin for transparency.
HELD = {"WEBP": 16.5, "AVIF": 12.0, "HEIF": 9.5, "JPEG2000": 24.0, "JXL": 16.0}
PROGRESSIVE = 6.0  # coefficients of 16 bits for three colours, at full size
FRAMES = 16.0  # several canvases of four bytes, for a look at later frames
RGB = 3.0
_JPEG2000_LEVELS = 9  # offset of the number of levels from the marker of the coding style
_CODING_STYLE = b"\xff\x52"


@dataclass(frozen=True)
class Size:
    """width, height: of the picture at full size, as stored. pixels: to decode. held: bytes per pixel to decode. kept:
    pixels of the result."""

    width: int
    height: int
    pixels: int
    held: float
    kept: int

    @property
    def memory(self) -> int:
        """Peak memory in bytes."""
        return int(self.pixels * self.held + self.kept * RGB)

    def check(self, max_pixels: int) -> None:
        """Raises `TooManyPixels`, and `UnreadableImage` where a side is longer than a collection can store."""
        if max(self.width, self.height) > MAX_SIDE:
            raise UnreadableImage(f"is damaged: claims to be {max(self.width, self.height)} pixels long")
        weight = max(self.held / BYTES_A_PIXEL, 1.0) if self.pixels > LARGE else 1.0
        if self.pixels * weight > max_pixels:
            raise TooManyPixels(self.pixels, max_pixels, weight)


def smaller_by(width: int, height: int, min_side: int) -> int:
    """The largest power of two by which both sides can be divided and keep twice `min_side` pixels; 1 if `min_side` is
    0."""
    share = min(width, height) // (2 * min_side) if min_side else 1
    return 1 << max(share.bit_length() - 1, 0)


def shrunk_by(width: int, height: int, min_side: int) -> int:
    """The factor by which the sides of a decoded picture are divided; 1 if it is not large."""
    return smaller_by(width, height, min_side) if width * height > LARGE else 1


def size_in_head(content: bytes, format: str, min_side: int) -> Size | None:
    """The size in a file's header, for formats whose decoder takes memory as soon as it opens the file. None for other
    formats, and if the header does not tell it."""
    if format not in ("WEBP", "JXL"):
        return None
    sides = _sides_of_webp(content) if format == "WEBP" else _sides_of_jxl(content)
    if sides is None:
        return None
    pixels = sides[0] * sides[1]
    return Size(*sides, pixels, HELD[format], pixels // shrunk_by(*sides, min_side) ** 2)


def size_to_decode(image: ImageFile, format: str, content: bytes, min_side: int) -> Size:
    """The size of an opened image. Sets the image to be decoded smaller if its format can: JPEG at a half, a quarter or
    an eighth, JPEG 2000 by its levels. (For HEIC, Pillow's `draft` takes a thumbnail, which may show something
    else.)"""
    width, height = image.size
    pixels, held = width * height, HELD.get(format, _bytes_of(image.mode))
    if format == "JPEG" and min_side:
        image.draft("RGB", (2 * min_side, 2 * min_side))
        if not image.info.get("progressive"):  # libjpeg holds those at full size, however small the result
            pixels = image.width * image.height
    elif format == "JPEG2000" and min_side:
        level = min(smaller_by(width, height, min_side).bit_length() - 1, _levels(content))
        _reduce(image, level)
        pixels = image.width * image.height
    decoded = image.width * image.height
    if image.info.get("progressive"):
        held = PROGRESSIVE + held * decoded / pixels
    elif may_have_frames(image):
        held = max(held, FRAMES)
    return Size(width, height, pixels, held, decoded // shrunk_by(image.width, image.height, min_side) ** 2)


def lift_cap_of_pillow(max_pixels: int) -> None:
    """Raises Pillow's limit for the whole process if `max_pixels` is above it. Pillow refuses images of more than twice
    its `MAX_IMAGE_PIXELS`."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _bytes_of(mode: str) -> float:
    if mode in ("1", "L", "P"):
        return 1.0
    return 2.0 if mode.startswith("I;16") else 4.0


def _reduce(image: ImageFile, level: int) -> None:
    """As Pillow's `reduce` of JPEG 2000 files, but with sides rounded as OpenJPEG rounds them; Pillow fails
    otherwise."""
    width, height = (-(-side // 2**level) for side in image.size)
    tile = image.tile[0]
    if isinstance(tile.args, tuple):
        codec, _, *others = tile.args
        image.tile = [tile._replace(extents=(0, 0, width, height), args=(codec, level, *others))]
        image._size = width, height


def _levels(content: bytes) -> int:
    """How often a JPEG 2000 picture can be halved; 0 if it does not tell."""
    offset = content.find(_CODING_STYLE) + _JPEG2000_LEVELS
    return content[offset] if _JPEG2000_LEVELS <= offset < len(content) and content[offset] <= 32 else 0


def _sides_of_webp(content: bytes) -> tuple[int, int] | None:
    kind, head = content[12:16], content[20:30]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(head[low : low + 3], "little") for low in (4, 7))
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(head[low : low + 2], "little") & 0x3FFF for low in (6, 8))
    elif kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    else:
        return None
    return width, height


_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _sides_of_jxl(content: bytes) -> tuple[int, int]:
    """(width, height) by section D.3.2 of ISO/IEC 18181-1."""
    start = content.find(b"\xff\x0a", 0, 100_000)
    bits, bits_read = int.from_bytes(content[start + 2 : start + 16], "little"), 0

    def take(count: int) -> int:
        nonlocal bits_read
        bits_read += count
        return (bits >> (bits_read - count)) & ((1 << count) - 1)

    def length() -> int:
        return 1 + take((9, 13, 18, 30)[take(2)])

    is_small = take(1)
    height = 8 * (1 + take(5)) if is_small else length()
    ratio = take(3)
    if ratio:
        across, down = _JXL_RATIOS[ratio - 1]
        width = height * across // down
    else:
        width = 8 * (1 + take(5)) if is_small else length()
    return width, height
