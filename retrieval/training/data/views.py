"""Augmentation: the photo as it is, mirrored, and random crops of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from retrieval.images import Photo
from retrieval.training.data.towers import ImageTransform

ORIGINAL, MIRRORED, RANDOM = 0, 1, 2  # number of a view; higher ones are random too
SMALLEST_CROP = 0.5  # share of the area
JITTER = 0.2  # of brightness, contrast and colour
ENHANCEMENTS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def view(photo: Photo, number: int, transform: ImageTransform, rng: np.random.Generator) -> NDArray[Any]:
    """View `number` of a photo, as the tower's input.

    0 is the photo as it is and 1 its mirror image. From 2 on: a random crop of half the area or more, its aspect ratio
    changed by up to a third, mirrored or not, with brightness, contrast and colour shifted by up to a fifth."""
    if number <= MIRRORED:
        prepared = transform.prepare(photo)
        return transform.mirrored(prepared) if number == MIRRORED else prepared
    drawn = random_view(rng)
    picture = Image.fromarray(photo.pixels)
    side = transform.image_size
    box = drawn.box(picture.width, picture.height)
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    for enhance, factor in zip(ENHANCEMENTS, drawn.factors, strict=True):
        picture = enhance(picture).enhance(factor)
    prepared = transform.prepare(Photo(np.asarray(picture), picture.width, picture.height, None))
    return transform.mirrored(prepared) if drawn.mirrored else prepared


@dataclass(frozen=True)
class RandomView:
    """left, top, width, height: of the crop, as shares of the photo's sides. factors: of brightness, contrast and
    colour. mirrored: left to right."""

    left: float
    top: float
    width: float
    height: float
    factors: tuple[float, float, float]
    mirrored: bool

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the crop of a photo of this size, in pixels."""
        right, bottom = (self.left + self.width) * width, (self.top + self.height) * height
        return self.left * width, self.top * height, right, bottom


def random_view(rng: np.random.Generator) -> RandomView:
    """Draw a view of any photo."""
    area, ratio = rng.uniform(SMALLEST_CROP, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width, height = min(1.0, float(np.sqrt(area * ratio))), min(1.0, float(np.sqrt(area / ratio)))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    brightness, contrast, colour = (float(rng.uniform(1 - JITTER, 1 + JITTER)) for _ in ENHANCEMENTS)
    return RandomView(left, top, width, height, (brightness, contrast, colour), bool(rng.random() < 0.5))
