"""How much of a picture was decoded before its data ended, or turned out to be damaged?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_SHARE = 1 / 8
_SAMPLES = 512


def shown_share(pixels: NDArray[np.uint8], is_interlaced: bool = False) -> float:
    """The share of rows, 0 to 1, that were decoded before decoding broke off. For an interlaced picture it is the share
    of pixels, since every pass covers all rows.

    The rest is filled with one colour. Rows are stored from the top or, in BMP, from the bottom. So the rest is at the
    top or bottom edge, or at the left or right edge if the picture was rotated after decoding. pixels: uint8
    [h, w, 3]."""
    step, across = pixels.shape[0] // _SAMPLES | 1, pixels.shape[1] // _SAMPLES | 1
    shares = []
    for lines in (pixels[:, ::across], pixels[::step].swapaxes(0, 1)):
        for line in (lines[-1], lines[0]):
            differs = (lines != line[0]).any(axis=2)
            shares.append(float(differs.mean() if is_interlaced else differs.any(axis=1).mean()))
    return min(shares)
