"""From a decoder's pixels to sRGB with 8 bits per channel, on an opaque background."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.images.greys import grey_scale, stretch
from retrieval.images.turning import turned, turned_pixels

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
BAND = 2_000_000  # pixels converted at once, so that intermediate copies are small
_SAMPLE = 512
_PALE, _MOSTLY = 224, 0.9
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_MAX_PROFILE = 4_000_000


def to_srgb(image: Image, factor: int = 1, orientation: int = 1, is_deep: bool = False) -> NDArray[np.uint8]:
    """uint8 [h, w, 3] of a loaded image, upright, its sides divided by `factor` and rounded up. is_deep: whether its
    colours had 16 bits per channel.

    Colours are converted by the file's profile. A transparent image is put on white, or on black if most of it would
    vanish on white; if all of it is transparent, transparency is ignored. For grey values of more than 8 bits see
    `greys`."""
    width, height = image.size
    rows = max(BAND // width // factor, 1) * factor
    as_drawn = _converter(image, is_deep)
    flat = _flattener(image, as_drawn)
    if rows >= height and factor == 1:
        return np.asarray(turned(flat(as_drawn(image)), orientation))
    pixels = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top in range(0, height, rows):
        rgb = flat(as_drawn(image.crop((0, top, width, min(top + rows, height)))))
        if factor > 1:
            rgb = rgb.reduce(factor)
        pixels[top // factor : top // factor + rgb.height] = np.asarray(rgb)
    return turned_pixels(pixels, orientation)


def stored_to_srgb(pixels: NDArray[np.uint8], profile: Any, orientation: int) -> NDArray[np.uint8]:
    """uint8 [h, w, 3], upright: what `to_srgb` makes of an image in mode RGB with these pixels, uint8 [h, w, 3], and
    this colour profile, None if it has none."""
    if _known_transform(profile, "RGB") is None:
        return turned_pixels(pixels, orientation)
    from PIL import Image as pillow

    image = pillow.fromarray(pixels)
    image.info["icc_profile"] = profile
    return to_srgb(image, orientation=orientation)


def _converter(image: Image, is_deep: bool) -> Callable[[Image], Image]:
    """Returns a function that converts a part of this image to sRGB, with its transparency: mode RGB or RGBA."""
    from PIL import Image as pillow

    profile = image.info.get("icc_profile")
    if (scale := grey_scale(image)) is not None:
        to_colours = _profile_transform(profile, "L")

        def from_greys(band: Image) -> Image:
            values = np.asarray(band)
            rgb = to_colours(pillow.fromarray(scale(values)))
            if "transparency" in image.info:
                rgb.putalpha(pillow.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
            return rgb

        return from_greys

    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    mode = image.mode if image.mode in ("L", "CMYK") and not has_alpha else "L" if image.mode == "LA" else "RGB"
    to_colours = _profile_transform(profile, mode)
    brighter = stretch(image) if is_deep and mode == "RGB" else lambda band: band

    def from_colours(band: Image) -> Image:
        if not has_alpha:
            return to_colours(brighter(_in_mode(band, mode)))
        if mode == "L":
            rgb, alpha = to_colours(band.getchannel("L")), band.getchannel("A")
        else:
            band = _in_mode(band, "RGBA")
            rgb, alpha = to_colours(brighter(band.convert("RGB"))), band.getchannel("A")
        rgb.putalpha(alpha)
        return rgb

    return from_colours


def _flattener(image: Image, as_drawn: Callable[[Image], Image]) -> Callable[[Image], Image]:
    """Returns a function that puts a part of this image on an opaque background, chosen by a sample of the image."""
    from PIL import Image as pillow

    size = (min(image.width, _SAMPLE), min(image.height, _SAMPLE))
    may_hide = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not may_hide or image.format == "PSD":  # its fourth channel may be any mask; colours are on white already
        return lambda band: _in_mode(band, "RGB")
    sample = as_drawn(image if size == image.size else image.resize(size, pillow.Resampling.NEAREST))
    alpha = np.asarray(sample.getchannel("A"))
    if not alpha.any():
        return lambda band: _in_mode(band, "RGB")
    ground = _ground(np.asarray(sample.convert("L")), alpha)

    def flat(band: Image) -> Image:
        canvas = pillow.new("RGB", band.size, ground)
        canvas.paste(band, mask=band)
        return canvas

    return flat


def _ground(luminance: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> tuple[int, int, int]:
    """The background: black if the image is transparent somewhere and nearly all of what it draws is nearly white, else
    white. luminance, alpha: uint8 [h, w]."""
    if alpha.min() >= _PALE:
        return WHITE
    weight = alpha.astype(np.float64)
    pale = weight[luminance >= _PALE].sum() / weight.sum()
    return BLACK if pale > _MOSTLY else WHITE


def _profile_transform(profile: Any, mode: str) -> Callable[[Image], Image]:
    """Returns a function that converts from a mode to sRGB by a profile. Without a profile, with that of sRGB, and with
    one that is damaged or of another colour space, it converts by Pillow's own rule."""
    transform = _known_transform(profile, mode)
    if transform is None:
        return lambda band: _in_mode(band, "RGB")
    from PIL import ImageCms

    return lambda band: ImageCms.applyTransform(band, transform) or band


def _known_transform(profile: Any, mode: str) -> ImageCmsTransform | None:
    if isinstance(profile, bytes) and 128 <= len(profile) <= _MAX_PROFILE:
        return _transform(profile, mode)
    return None


def _in_mode(image: Image, mode: str) -> Image:
    """As `convert`, but without a copy of an image that has the mode already."""
    return image if image.mode == mode else image.convert(mode)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCmsTransform | None:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _SPACES.get(source.profile.xcolor_space) != mode or "sRGB" in (source.profile.profile_description or ""):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
