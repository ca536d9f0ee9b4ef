"""What the towers are shown: views of a photo, as it is, mirrored, and random crops of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from indexes.errors import CrosslookError
from retrieval.captions import CannotRead, CaptionedImage, CaptionSet, Skipped, absent_images, read_image_bytes
from retrieval.images import Photo, UnreadableImage, decode
from retrieval.training.data.towers import Sight

Captioned = tuple[CaptionSet, CaptionedImage]  # an image, with the set that it is of

WHOLE, MIRRORED = 0, 1
SMALLEST_CROP = 0.5
JITTER = 0.2


class CannotSee(CrosslookError):
    """An image of a set cannot be read. reason: why, without a name. passes: whether it is the file system that says
    so, which may say otherwise the next time; else it is the content."""

    def __init__(self, captions: CaptionSet, image: CaptionedImage, reason: str, passes: bool) -> None:
        self.reason = f"image {reason}"
        self.passes = passes
        super().__init__(f"{image.image} of {captions.source} {reason}: leave it out of the captions")


def photo_of(captions: CaptionSet, image: CaptionedImage, side: int) -> Photo:
    """Raises `CannotSee` when it cannot be read."""
    try:
        return decode(read_image_bytes(captions, image), side)
    except CannotRead as error:
        raise CannotSee(captions, image, error.reason, True) from error
    except UnreadableImage as error:
        raise CannotSee(captions, image, " ".join(str(error).split()), False) from error


def present(sets: Sequence[CaptionSet]) -> tuple[list[Captioned], tuple[Skipped, ...]]:
    """The images of some sets that have a file, each with its set, and those that have none."""
    images: list[Captioned] = []
    absent: list[Skipped] = []
    for captions in sets:
        missing = absent_images(captions)
        names = {item.what for item in missing}
        images += [(captions, image) for image in captions.images if image.image not in names]
        absent += missing
    return images, tuple(absent)


def view(photo: Photo, number: int, towers: Sight, rng: np.random.Generator) -> NDArray[Any]:
    """The tower's input. Number 0: the photo as it is; 1: mirrored; further ones: a random half or more of it, its
    shape changed by up to a third, mirrored or not, brightness, contrast and colour shifted by up to a fifth."""
    if number <= MIRRORED:
        prepared = towers.prepare(photo)
        return towers.mirrored(prepared) if number == MIRRORED else prepared
    picture = Image.fromarray(photo.pixels)
    area, ratio = rng.uniform(SMALLEST_CROP, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width, height = min(1.0, float(np.sqrt(area * ratio))), min(1.0, float(np.sqrt(area / ratio)))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    box = (left * picture.width, top * picture.height, (left + width) * picture.width, (top + height) * picture.height)
    picture = picture.resize((towers.image_size, towers.image_size), Image.Resampling.BICUBIC, box=box)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(float(rng.uniform(1 - JITTER, 1 + JITTER)))
    prepared = towers.prepare(Photo(np.asarray(picture), picture.width, picture.height, None))
    return towers.mirrored(prepared) if rng.random() < 0.5 else prepared
