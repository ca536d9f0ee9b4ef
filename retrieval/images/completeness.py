"""How much of a picture was decoded before its data ended, or made no sense any more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_SHARE = 1 / 8
_SAMPLES = 512


def shown_share(pixels: NDArray[np.uint8], is_interlaced: bool = False) -> float:
    """Of the rows of a picture that was not decoded to its end (of its pixels where passes over all of it were
    interlaced), those that are not of the colour that fills the rest. Files are stored from the top or, as BMP, from
    the bottom; so the rest is at one of the ends, or of the sides where the picture was turned since."""
    step, across = pixels.shape[0] // _SAMPLES | 1, pixels.shape[1] // _SAMPLES | 1
    shares = []
    for lines in (pixels[:, ::across], pixels[::step].swapaxes(0, 1)):
        for line in (lines[-1], lines[0]):
            differs = (lines != line[0]).any(axis=2)
            shares.append(float(differs.mean() if is_interlaced else differs.any(axis=1).mean()))
    return min(shares)
