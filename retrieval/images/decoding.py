"""How does the file of an image become a photo, an upright sRGB array?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.images import exif, png
from retrieval.images.budget import PICTURES
from retrieval.images.colour import stored_to_srgb, to_srgb
from retrieval.images.completeness import LEAST_SHARE, shown_share
from retrieval.images.formats import formats
from retrieval.images.frames import first_that_shows, skip_thumbnails
from retrieval.images.kinds import fix_psd_offsets, refuse_wrong_kinds
from retrieval.images.opening import Opened, open_picture
from retrieval.images.photo import INCOMPLETE, Photo, UnreadableImage, is_of_the_content, one_line
from retrieval.images.quiet import silence_decoders
from retrieval.images.raw import is_raw_tiff, preview
from retrieval.images.reader import Clock, Reader
from retrieval.images.sizes import Size, lift_cap_of_pillow, shrunk_by, size_in_head, size_to_decode
from retrieval.images.turbo import ordinary_pixels

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 100_000_000
MAX_SECONDS = 20.0


def decode(content: bytes, min_side: int = 0, max_pixels: int = MAX_PIXELS, max_seconds: float = MAX_SECONDS) -> Photo:
    """Decodes the bytes of one file to a photo: the upright picture in 8-bit sRGB.

    - Transparent pictures are put on white, or on black if they would vanish on white.
    - Of several frames, the first one that is not of a single colour is decoded; of a RAW file, its preview.
    - A file that lacks its end, or is damaged after a part of the picture, is decoded as far as it goes. The
      photo's note tells so.

    min_side: if given, large pictures may be decoded smaller by a power of two, as long as both sides keep twice that
    many pixels.

    Raises `UnreadableImage` with the reason. `TooManyPixels` is raised for more than `max_pixels` to decode (fewer in
    formats whose decoders take much memory), before memory is taken for them. `TooSlow` is raised after `max_seconds`
    of this thread's processor time. It stops parsers, and decoders that are fed in pieces. Decoders that take a file as
    one piece (WebP, AVIF, HEIC, JPEG XL, compressed TIFF) are bounded by their pixels and the size of the file alone.

    Errors that tell nothing about the file pass through: `MemoryError`, `ImportError`, and `OSError` with an errno (no
    more file handles, an error of the drive).

    Threads share a memory budget: a large picture waits until enough memory is free. Two effects last for the whole
    process: decoders and Pillow's warnings are silenced (see `quiet`), and Pillow's own limit on pixels is raised if
    `max_pixels` is above it."""
    silence_decoders()
    lift_cap_of_pillow(max_pixels)
    try:
        return _photo(content, _Request(min_side, max_pixels, Clock(max_seconds)))
    except Exception as error:  # decoders raise anything on damaged input: struct.error, SyntaxError, ValueError ...
        if not is_of_the_content(error):
            raise
        raise UnreadableImage(f"is damaged: {one_line(error)}") from error


@dataclass(frozen=True)
class _Request:
    """The arguments of `decode`. orientation, taken_at: the defaults for a file without them."""

    min_side: int
    max_pixels: int
    clock: Clock
    orientation: int = exif.UPRIGHT
    taken_at: datetime | None = None


def _photo(content: bytes, request: _Request) -> Photo:
    candidates = formats(content)
    if not candidates:
        raise UnreadableImage("is not an image in a known format, or is damaged" if content else "is empty")
    if candidates == ("RAW",) or (candidates == ("TIFF",) and is_raw_tiff(content)):
        inside = preview(content, request.clock)
        if inside is None:
            raise UnreadableImage("is a RAW file without a preview that can be read")
        content, candidates = inside.content, ("JPEG",)
        request = _Request(request.min_side, request.max_pixels, request.clock, inside.orientation, inside.taken_at)
    size = size_in_head(content, candidates[0], request.min_side)
    if size is not None:
        size.check(request.max_pixels)
        with PICTURES.reserve(size.memory):
            opened = open_picture(content, candidates, request.max_pixels, request.clock)
            return _developed(opened, content, size, request)
    opened = open_picture(content, candidates, request.max_pixels, request.clock)
    skip_thumbnails(opened.image)
    refuse_wrong_kinds(opened.image)
    fix_psd_offsets(opened.image, content)
    size = size_to_decode(opened.image, opened.format, content, request.min_side)
    size.check(request.max_pixels)
    with PICTURES.reserve(size.memory):
        return _developed(opened, content, size, request)


def _developed(opened: Opened, content: bytes, size: Size, request: _Request) -> Photo:
    image = opened.image
    is_deep = any(";16" in str(tile) for tile in image.tile)
    is_drafted = image.size != (size.width, size.height) or image.format == "JPEG2000"
    pixels = ordinary_pixels(image)
    if pixels is not None:
        request.clock.check()
        return _ordinary(image, pixels, content, size, request)
    image, damage = _load(image, content, request)
    damage = opened.damage or damage
    width, height = (size.width, size.height) if is_drafted else image.size  # some formats tell it only now
    orientation = exif.orientation(image, content, request.orientation)
    factor = shrunk_by(*image.size, request.min_side)

    def render() -> NDArray[np.uint8]:
        return to_srgb(image, factor, orientation, is_deep)

    pixels = render()
    if damage is None:
        pixels = first_that_shows(image, pixels, render)
    elif shown_share(pixels, bool(image.info.get("interlace"))) < LEAST_SHARE:
        raise UnreadableImage(f"is damaged: {damage}")
    taken_at = exif.taken_at(image) or request.taken_at
    image.close()  # frees its memory before the reservation ends
    if orientation >= 5:
        width, height = height, width
    return Photo(pixels, width, height, taken_at, INCOMPLETE if damage else "")


def _ordinary(image: ImageFile, pixels: NDArray[np.uint8], content: bytes, size: Size, request: _Request) -> Photo:
    """The photo of a picture that Pillow opened and did not decode. pixels: uint8 [h, w, 3] as stored."""
    orientation = exif.orientation(image, content, request.orientation)
    upright = stored_to_srgb(pixels, image.info.get("icc_profile"), orientation)
    width, height = (size.height, size.width) if orientation >= 5 else (size.width, size.height)
    return Photo(upright, width, height, exif.taken_at(image) or request.taken_at)


def _load(image: ImageFile, content: bytes, request: _Request) -> tuple[ImageFile, str | None]:
    """The image with its pixels, as far as they can be decoded; and the damage, None if all were decoded."""
    reader = image.fp
    try:
        image.load()
    except Exception as error:
        if not is_of_the_content(error):
            raise
        if image.format == "PNG":
            # Chunks after the pixels may be the damaged ones, and may tell which side is up.
            mended = png.without_needless(content, request.clock)
            image = open_picture(mended, ("PNG",), request.max_pixels, request.clock).image
            try:
                image.load()
                return image, None
            except Exception as again:
                if not is_of_the_content(again):
                    raise
        if image._im is None:
            raise
        image.tile = []  # go on with the pixels that were decoded
        image._size = image.im.size  # Pillow would have turned a TIFF by now
        return image, one_line(error)
    is_short = isinstance(reader, Reader) and reader.is_short
    return image, "image file is truncated" if is_short else None
