"""Decode the bytes of an image file to an upright sRGB array."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.images import exif, png
from retrieval.images.budget import PICTURES
from retrieval.images.colour import to_srgb
from retrieval.images.completeness import LEAST_SHARE, shown_share
from retrieval.images.formats import formats
from retrieval.images.frames import first_that_shows, skip_thumbnails
from retrieval.images.kinds import put_right, refuse_wrong_kinds
from retrieval.images.opening import Opened, open_picture
from retrieval.images.photo import INCOMPLETE, Photo, UnreadableImage, is_of_the_content, one_line
from retrieval.images.quiet import silence_decoders
from retrieval.images.raw import is_raw_tiff, preview
from retrieval.images.reader import Clock, Reader
from retrieval.images.sizes import Size, lift_cap_of_pillow, shrunk_by, size_in_head, size_to_decode

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 100_000_000
MAX_SECONDS = 20.0


def decode(content: bytes, at_least: int = 0, max_pixels: int = MAX_PIXELS, max_seconds: float = MAX_SECONDS) -> Photo:
    """Decode the bytes of one file: upright, in sRGB of 8 bits, on white where it is transparent (on black what would
    not be seen on white). Of several frames, the first one that is not of one colour. Of a RAW file, its preview. A
    file that lacks its end, or is damaged after some of the picture, is decoded as far as it goes, and noted.

    With `at_least`, large pictures may be decoded smaller by a power of two, as long as both sides keep twice that many
    pixels.

    Raises `UnreadableImage` with the reason: `TooManyPixels` above `max_pixels` to be decoded (fewer in formats whose
    decoders take much memory), before memory is taken for them; `TooSlow` after `max_seconds` of this thread's
    processor time. That stops parsers, and decoders that are fed in pieces; those that take a file as one piece (WebP,
    AVIF, HEIC, JPEG XL, compressed TIFF) are bounded by their pixels and by the size of the file alone.

    What says nothing of the file passes through: `MemoryError`, `ImportError`, and `OSError` with an errno (no more
    file handles, an error of the drive).

    Threads share a budget of memory: a large picture waits until there is room. For the whole process, decoders and
    Pillow's warnings are silenced (see `quiet`), and Pillow's own cap on pixels is lifted where `max_pixels` is above
    what it allows."""
    silence_decoders()
    lift_cap_of_pillow(max_pixels)
    try:
        return _photo(content, _Request(at_least, max_pixels, Clock(max_seconds)))
    except Exception as error:  # decoders raise anything on damaged input: struct.error, SyntaxError, ValueError ...
        if not is_of_the_content(error):
            raise
        raise UnreadableImage(f"is damaged: {one_line(error)}") from error


@dataclass(frozen=True)
class _Request:
    """What is asked for. orientation, taken_at: what counts where the file does not say."""

    at_least: int
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
        request = _Request(request.at_least, request.max_pixels, request.clock, inside.orientation, inside.taken_at)
    size = size_in_head(content, candidates[0], request.at_least)
    if size is not None:
        size.check(request.max_pixels)
        with PICTURES.room(size.memory):
            opened = open_picture(content, candidates, request.max_pixels, request.clock)
            return _developed(opened, content, size, request)
    opened = open_picture(content, candidates, request.max_pixels, request.clock)
    skip_thumbnails(opened.image)
    refuse_wrong_kinds(opened.image)
    put_right(opened.image, content)
    size = size_to_decode(opened.image, opened.format, content, request.at_least)
    size.check(request.max_pixels)
    with PICTURES.room(size.memory):
        return _developed(opened, content, size, request)


def _developed(opened: Opened, content: bytes, size: Size, request: _Request) -> Photo:
    image = opened.image
    is_deep = any(";16" in str(tile) for tile in image.tile)
    is_drafted = image.size != (size.width, size.height) or image.format == "JPEG2000"
    image, damage = _load(image, content, request)
    damage = opened.damage or damage
    width, height = (size.width, size.height) if is_drafted else image.size  # some formats know it only now
    orientation = exif.orientation(image, content, request.orientation)
    factor = shrunk_by(*image.size, request.at_least)

    def render() -> NDArray[np.uint8]:
        return to_srgb(image, factor, orientation, is_deep)

    pixels = render()
    if damage is None:
        pixels = first_that_shows(image, pixels, render)
    elif shown_share(pixels, bool(image.info.get("interlace"))) < LEAST_SHARE:
        raise UnreadableImage(f"is damaged: {damage}")
    taken_at = exif.taken_at(image) or request.taken_at
    image.close()  # so that its memory is given back with the room for it
    if orientation >= 5:
        width, height = height, width
    return Photo(pixels, width, height, taken_at, INCOMPLETE if damage else "")


def _load(image: ImageFile, content: bytes, request: _Request) -> tuple[ImageFile, str | None]:
    """The image with its pixels, as far as they can be decoded; and what is wrong where that is not all of them."""
    reader = image.fp
    try:
        image.load()
    except Exception as error:
        if not is_of_the_content(error):
            raise
        if image.format == "PNG":
            # Maybe what comes after the pixels is at fault, and maybe it says which side is up.
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
        image.tile = []  # go on with what there is
        image._size = image.im.size  # TIFF would have turned it by now
        return image, one_line(error)
    is_short = isinstance(reader, Reader) and reader.is_short
    return image, "image file is truncated" if is_short else None
