"""From grey values of many bits to 8 bits: which value is black, and which is white?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE, SAMPLE_FORMAT = 258, 262, 281, 339
WHITE_IS_ZERO, UNSIGNED, SIGNED = 0, 1, 2
_USUAL_BITS = (8, 10, 12, 14, 16)
_ROWS = 256


@dataclass(frozen=True)
class GreyScale:
    """low, high: the values that become black and white; low is the larger one in an inverted picture. as_type: the
    values' real dtype, if Pillow takes them for another one of that size."""

    low: float
    high: float
    as_type: str | None = None

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """uint8 of the same shape. NaN becomes black; infinities count as the smallest and the largest value."""
        values = values if self.as_type is None else values.view(self.as_type)
        eight_bits = np.empty(values.shape, np.uint8)
        for top in range(0, len(values), _ROWS):  # float64 holds every value; bands keep its memory small
            with np.errstate(invalid="ignore"):  # of signalling NaNs
                band = values[top : top + _ROWS].astype(np.float64)
            scaled = np.nan_to_num(np.clip((band - self.low) / ((self.high - self.low) or 1.0), 0, 1))
            eight_bits[top : top + _ROWS] = scaled * 255 + 0.5
        return eight_bits


def grey_scale(image: Image) -> GreyScale | None:
    """How the values of this image become 8 bits; None if Pillow gives 8 bits already.

    Unsigned 16-bit integers are divided by the largest value of their bit depth, which the file tells; otherwise it is
    the least of 8, 10, 12, 14 and 16 bits that holds them all. Floats in [0, 1] are multiplied by 255. For other values
    no range is known, so the smallest becomes black and the largest white."""
    tags = getattr(image, "tag_v2", {})
    sample_format = tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    as_type = None
    if image.mode == "L" and sample_format == (SIGNED,):
        as_type = "int8"
    elif image.mode == "I" and sample_format == (UNSIGNED,) and tags.get(BITS_PER_SAMPLE) == (32,):
        as_type = "uint32"
    elif not (image.mode.startswith("I;16") or image.mode in ("I", "F")):
        return None
    low, high = _extremes(image, as_type)
    if image.mode.startswith("I;16"):
        low, high = 0.0, _white(high, tags)
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    # Pillow inverts mode L itself.
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO and image.mode != "L":
        low, high = high, low
    return GreyScale(low, high, as_type)


def _white(highest: float, tags: Any) -> float:
    largest = tags.get(MAX_SAMPLE)
    white = float(max(largest)) if isinstance(largest, tuple) and largest else float(largest or 0)
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    if bits < 16:
        return 2.0**bits - 1
    if 255 <= white < 65535 and highest <= white:
        return white
    return next(2.0**bits - 1 for bits in _USUAL_BITS if highest < 2**bits)


def _extremes(image: Image, as_type: str | None) -> tuple[float, float]:
    """The smallest and the largest finite value; zeros if there is none."""
    lows, highs = [], []
    for values in _bands(image):
        values = values if as_type is None else values.view(as_type)
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    return (min(lows), max(highs)) if lows else (0.0, 0.0)


def _bands(image: Image) -> Iterator[NDArray[Any]]:
    for top in range(0, image.height, _ROWS):
        yield np.asarray(image.crop((0, top, image.width, min(top + _ROWS, image.height))))


def stretch(image: Image) -> Callable[[Image], Image]:
    """Returns a function for colours of 16 bits per channel, of which Pillow keeps the upper 8. If these are all small,
    the values had 10, 12 or 14 bits; the function scales them to the full range."""
    channels = image.getextrema()[:3]  # without alpha
    highest = max(channel[1] for channel in channels)  # type: ignore[index]
    white = next((2**bits - 1 for bits in (2, 4, 6) if 0 < highest < 2**bits), 255)
    table = [min(255, (value * 255 + white // 2) // white) for value in range(256)]
    return lambda band: band.point(table * len(band.getbands()))
