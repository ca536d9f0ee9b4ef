"""Which picture of a file with several is shown?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_FRAMES = 48
MAX_PAGES = 16
SHOWN_CONTRAST = 32
MAX_FRAME_PIXELS = 16_000_000  # of larger frames the first is shown: decoding others would take much memory
_FORMATS = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
_SUBFILE_TYPE, _REDUCED = 254, 1
_SAMPLES = 256


def skip_thumbnails(image: ImageFile) -> None:
    """Moves on to the first page of a TIFF file that is not a smaller version of another page."""
    if image.format != "TIFF":
        return
    for page in range(MAX_PAGES):
        try:
            image.seek(page)
        except EOFError:
            break
        if not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED:  # type: ignore[attr-defined]
            return
    image.seek(0)


def may_have_frames(image: ImageFile) -> bool:
    """Whether later frames may be looked at. A GIF file does not tell how many it has."""
    if image.format not in _FORMATS or image.width * image.height > MAX_FRAME_PIXELS:
        return False
    return image.format == "GIF" or bool(getattr(image, "is_animated", False))


def first_that_shows(
    image: ImageFile, first: NDArray[np.uint8], render: Callable[[], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """uint8 [h, w, 3]: the first frame that is not nearly of one colour; if all are, the first frame. Frames of another
    size are not looked at. first: the loaded frame, rendered. render: gives the pixels of the frame now loaded."""
    if not may_have_frames(image) or shows(first) or not getattr(image, "is_animated", False):
        return first
    size = image.size
    start = image.tell()
    try:
        for frame in range(start + 1, start + MAX_FRAMES):
            image.seek(frame)
            if image.size != size:
                break
            image.load()
            pixels = render()
            if shows(pixels):
                return pixels
    except (EOFError, OSError, SyntaxError, ValueError):
        pass  # the end, or damage after the first frame
    return first


def shows(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture, uint8 [h, w, 3], is not nearly of one colour."""
    step = max(1, min(pixels.shape[:2]) // _SAMPLES)
    sample = pixels[::step, ::step]
    return any(int(channel.max()) - int(channel.min()) >= SHOWN_CONTRAST for channel in np.moveaxis(sample, 2, 0))
