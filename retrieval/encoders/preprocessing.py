"""open_clip's validation preprocessing without torch: resize, crop, normalise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.images import Photo

FILTERS = ("bicubic", "bilinear")


@dataclass(frozen=True)
class Preprocessing:
    """side: of the model's square input, in pixels. interpolation: `bicubic` or `bilinear`. squash: whether a picture
    is distorted to the square; else its middle is cropped. mean, std: of each channel, whose values are 0 to 1."""

    side: int
    interpolation: str
    squash: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, photo: Photo) -> NDArray[np.float32]:
        """float32 [3, side, side]."""
        values = self.levels(photo.pixels).astype(np.float32) / np.float32(255)
        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        values = (values - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def levels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [side, side, 3], resized and cropped by Pillow. pixels: uint8 [h, w, 3]."""
        from PIL import Image

        picture = Image.fromarray(pixels)
        resampling = Image.Resampling[self.interpolation.upper()]
        picture = picture.resize(self.resized(picture.width, picture.height), resampling)
        left, top = self.corner(picture.width, picture.height)
        return np.asarray(picture.crop((left, top, left + self.side, top + self.side)))

    def corner(self, width: int, height: int) -> tuple[int, int]:
        """Left and top of the crop of a resized picture."""
        return round((width - self.side) / 2), round((height - self.side) / 2)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which a picture is resized."""
        if self.squash:
            return self.side, self.side
        if width <= height:
            return self.side, int(self.side * height / width)
        return int(self.side * width / height), self.side


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing | None:
    """The preprocessing that open_clip's `preprocess_cfg` of a vision tower describes; None if it is of another
    kind."""
    size = config["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1 or config["resize_mode"] == "longest" or config["interpolation"] not in FILTERS:
        return None
    mean, std = (tuple(float(value) for value in config[key]) for key in ("mean", "std"))
    return Preprocessing(int(sides.pop()), config["interpolation"], config["resize_mode"] == "squash", mean, std)
