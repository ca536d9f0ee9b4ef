"""Ordinary JPEG pictures straight from libjpeg-turbo, where simplejpeg is installed.

The pixels are those that Pillow gives, and the interpreter is free meanwhile, so that several threads can decode at
once. All others are left to Pillow: pictures whose decoding may have to be stopped (progressive ones, and those of
several scans); grey values and CMYK; large ones, which are converted to sRGB part by part; and whatever libjpeg warns
about, since a part of the picture may be missing."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from retrieval.images.jpeg import is_baseline
from retrieval.images.reader import Reader
from retrieval.images.sizes import LARGE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

# Pixels. libjpeg rounds sides up, so that scales that are next to each other give a tiny picture the same sides.
_LEAST_SIDE = 32


def ordinary_pixels(image: ImageFile) -> NDArray[np.uint8] | None:
    """uint8 [h, w, 3] as stored: not turned, colours not converted. None where the picture is not ordinary, or
    simplejpeg is not installed.

    image: opened and not loaded, perhaps set to be decoded at a half, a quarter or an eighth of its size."""
    width, height = image.size
    if image.format != "JPEG" or image.mode != "RGB" or min(width, height) < _LEAST_SIDE or width * height > LARGE:
        return None
    decode_jpeg = decoder()
    if decode_jpeg is None:
        return None
    assert isinstance(image.fp, Reader)
    content = image.fp.getvalue()
    if not is_baseline(content):
        return None
    try:
        pixels: NDArray[np.uint8] = decode_jpeg(content, "RGB", min_width=width, min_height=height, strict=True)
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


@cache
def decoder() -> Any:
    """simplejpeg's `decode_jpeg`; None if it is not installed or broken, or Pillow decodes by another library."""
    from PIL import features

    try:
        from simplejpeg import decode_jpeg
    except Exception:  # built for another NumPy, it raises a ValueError
        return None
    return decode_jpeg if features.check_feature("libjpeg_turbo") else None
