"""What does decoding give? A photo, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Photo:
    """pixels: uint8 [h, w, 3], sRGB, upright; large pictures may be decoded at a half, a quarter, ... of their size.
    width, height: of the upright picture at full size; for a RAW file, of its preview. taken_at: the camera's local
    time, None if the file does not tell it. note: `incomplete` if a part of the file is missing or damaged, so that a
    part of the picture may be missing."""

    pixels: NDArray[np.uint8]
    width: int
    height: int
    taken_at: datetime | None
    note: str = ""


class UnreadableImage(Exception):
    """The file is not an image that can be decoded; the message says why."""


class TooManyPixels(UnreadableImage):
    """More pixels than allowed. pixels: the limit that would admit the picture."""

    def __init__(self, pixels: int, limit: int, weight: float = 1) -> None:
        """pixels: to decode. weight: memory per pixel in this format, relative to the usual."""
        self.pixels = -int(-pixels * weight // 1)
        needed = -(-self.pixels // 1_000_000)
        count = f"{-(-pixels // 1_000_000)} megapixels to decode"
        if weight > 1:
            count += f", of a format that takes memory for {needed}"
        super().__init__(f"has {count}, more than the limit of {limit / 1e6:g}: raise it with --max-pixels {needed}")


class TooSlow(UnreadableImage):
    """Decoding took more processor time than allowed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"takes longer than {seconds:g} s to decode")


def is_of_the_content(error: Exception) -> bool:
    """Whether an error is about the file, rather than about this machine at this moment. Decoders raise anything about
    a file; an `OSError` of theirs has no errno."""
    if isinstance(error, OSError) and error.errno is not None:
        return False
    return not isinstance(error, MemoryError | ImportError | UnreadableImage)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
