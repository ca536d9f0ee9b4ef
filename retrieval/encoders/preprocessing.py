"""open_clip's validation preprocessing without torch: resize, crop, normalise."""

from __future__ import annotations

from dataclasses import dataclass

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
        from PIL import Image

        picture = Image.fromarray(photo.pixels)
        resampling = Image.Resampling[self.interpolation.upper()]
        picture = picture.resize(self._size(picture.width, picture.height), resampling)
        left, top = (round((length - self.side) / 2) for length in picture.size)
        picture = picture.crop((left, top, left + self.side, top + self.side))
        values = np.asarray(picture, dtype=np.float32) / np.float32(255)
        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        values = (values - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def _size(self, width: int, height: int) -> tuple[int, int]:
        if self.squash:
            return self.side, self.side
        if width <= height:
            return self.side, int(self.side * height / width)
        return int(self.side * width / height), self.side
