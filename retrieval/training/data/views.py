"""Augmentation: the photo as it is, mirrored, and random crops of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from retrieval.images import Photo
from retrieval.training.data.towers import ImageTransform

ORIGINAL, MIRRORED, RANDOM = 0, 1, 2  # number of a view; higher ones are random too
SMALLEST_CROP = 0.5  # share of the area
JITTER = 0.2  # of brightness, contrast and colour


def view(photo: Photo, number: int, transform: ImageTransform, rng: np.random.Generator) -> NDArray[Any]:
    """View `number` of a photo, as the tower's input.

    0 is the photo as it is and 1 its mirror image. From 2 on: a random crop of half the area or more, its aspect ratio
    changed by up to a third, mirrored or not, with brightness, contrast and colour shifted by up to a fifth."""
    if number <= MIRRORED:
        prepared = transform.prepare(photo)
        return transform.mirrored(prepared) if number == MIRRORED else prepared
    picture = Image.fromarray(photo.pixels)
    area, ratio = rng.uniform(SMALLEST_CROP, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width, height = min(1.0, float(np.sqrt(area * ratio))), min(1.0, float(np.sqrt(area / ratio)))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    box = (left * picture.width, top * picture.height, (left + width) * picture.width, (top + height) * picture.height)
    side = transform.image_size
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(float(rng.uniform(1 - JITTER, 1 + JITTER)))
    prepared = transform.prepare(Photo(np.asarray(picture), picture.width, picture.height, None))
    return transform.mirrored(prepared) if rng.random() < 0.5 else prepared
