"""From pixels as stored to pixels upright, by the EXIF orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

# EXIF orientation -> PIL.Image.Transpose, by value so that PIL is imported only when an image is decoded. To make the
# picture upright: 2 mirror, 3 turn by 180 degrees, 4 flip, 5 transpose, 6 turn clockwise by 90, 7 transverse, 8 by 270.
_TRANSPOSITIONS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def turned(image: Image, orientation: int) -> Image:
    return image if orientation == 1 else image.transpose(_TRANSPOSITIONS[orientation])  # type: ignore[arg-type]


def turned_pixels(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """As `turned`, for uint8 [h, w, 3], with less memory."""
    if orientation == 1:
        return pixels
    view = pixels.view("V3")[..., 0]  # moves three channels at once, which is faster than one by one
    if orientation >= 5:
        view = view.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        view = view[::-1]
    if orientation in (2, 3, 6, 7):
        view = view[:, ::-1]
    return np.ascontiguousarray(view)[..., None].view(np.uint8)
