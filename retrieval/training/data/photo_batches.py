"""Photos as the input of an image tower that learns: uint8 on their way, normalised on the device."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.cores import usable_cores
from retrieval.images import Photo
from retrieval.training import accelerator
from retrieval.training.data.decoded import LARGEST, DecodedPhotos
from retrieval.training.data.device_views import device_views
from retrieval.training.data.photos import UnusablePhoto, photo_of
from retrieval.training.data.towers import OpenClipTransform
from retrieval.training.data.views import ORIGINAL, RANDOM, RandomView, random_view, view
from retrieval.training.parallel import current_device, on_device

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.training.data.photos import Captioned


AS_IT_IS = RandomView(0.0, 0.0, 1.0, 1.0, (1.0, 1.0, 1.0), mirrored=False)


@dataclass(frozen=True)
class PhotoBatch:
    """pixels: the tower's input, float32 [n, 3, side, side] on the device of the training; None if no photo can be
    read. rows: of the photos that can be read. unreadable: the others, by row."""

    pixels: Tensor | None
    rows: list[int]
    unreadable: dict[int, UnusablePhoto]


class SquareTransform:
    """Leaves a square picture as it is: uint8 [side, side, 3]."""

    def __init__(self, side: int) -> None:
        self.image_size = side

    def prepare(self, photo: Photo) -> NDArray[np.uint8]:
        return photo.pixels

    def mirrored(self, prepared: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(prepared[:, ::-1])


class PhotoLoader:
    """Loads batches, several at a time if several threads ask."""

    def __init__(self, encoder: OpenClipEncoder, images: Sequence[Captioned], decoded: DecodedPhotos) -> None:
        self._images = images
        self._decoded = decoded
        self._transform = OpenClipTransform(encoder)
        self._square = SquareTransform(encoder.image_size)
        config = encoder.model.visual.preprocess_cfg
        self._mean, self._std = (np.array(config[name], np.float32)[:, None, None] for name in ("mean", "std"))
        self._normalises = self._is_normalisation()
        self._device_makes_views = accelerator.acceleration().makes_views and self._normalises
        self._threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="photo")

    def load(self, images: Sequence[int], seeds: NDArray[np.int64] | None = None) -> PhotoBatch:
        """images: numbers. seeds: of random views; None for the photos as they are."""
        items = list(self._threads.map(self._read, images, [None] * len(images) if seeds is None else seeds.tolist()))
        rows = [row for row, item in enumerate(items) if not isinstance(item, UnusablePhoto)]
        unreadable = {row: item for row, item in enumerate(items) if isinstance(item, UnusablePhoto)}
        readable: list[Any] = [items[row] for row in rows]
        if not rows:
            return PhotoBatch(None, rows, unreadable)
        if isinstance(readable[0], tuple):
            return PhotoBatch(self._normalised(self._views(readable)), rows, unreadable)
        pixels = on_device(np.stack(readable))
        if pixels.dtype == torch.uint8:
            return PhotoBatch(self._normalised(pixels.permute(0, 3, 1, 2).float()), rows, unreadable)
        return PhotoBatch(_laid_out(pixels), rows, unreadable)

    def _read(
        self, number: int, seed: int | None
    ) -> NDArray[np.float32] | NDArray[np.uint8] | tuple[NDArray[np.uint8], RandomView] | UnusablePhoto:
        """The photo as it is, float32 [3, side, side], or a random view, uint8 [side, side, 3]; or, if the device makes
        the view, the pixels, uint8 [h, w, 3], and which view. Of large photos a batch would take gigabytes, so their
        views are made here."""
        try:
            pixels = self._decoded.pixels(number, lambda: photo_of(*self._images[number], self._square.image_size))
        except UnusablePhoto as error:
            return error
        photo = Photo(pixels, pixels.shape[1], pixels.shape[0], None)
        if seed is None:
            return np.asarray(view(photo, ORIGINAL, self._transform, np.random.default_rng()))
        rng = np.random.default_rng(seed)
        if self._device_makes_views and pixels.nbytes <= LARGEST:
            return pixels, random_view(rng)
        made = np.asarray(view(photo, RANDOM, self._square if self._normalises else self._transform, rng))
        return (made, AS_IT_IS) if self._device_makes_views else made

    def _views(self, photos: Sequence[tuple[NDArray[np.uint8], RandomView]]) -> Tensor:
        """Levels, float32 [n, 3, side, side]."""
        starts = [0, *accumulate(pixels.size for pixels, _ in photos)]
        staged = accelerator.staging(starts[-1])
        buffer = staged.numpy()

        def copy(index: int) -> None:
            buffer[starts[index] : starts[index + 1]] = photos[index][0].ravel()

        list(self._threads.map(copy, range(len(photos))))  # one thread copies slower than the bus
        pixels = staged.to(current_device(), non_blocking=True)
        sizes = [(image.shape[0], image.shape[1]) for image, _ in photos]
        return device_views(pixels, sizes, [drawn for _, drawn in photos], self._square.image_size)

    def _normalised(self, levels: Tensor) -> Tensor:
        """levels: float32 [n, 3, side, side], 0 to 255."""
        return _laid_out((levels / 255 - on_device(self._mean)) / on_device(self._std))

    def _is_normalisation(self) -> bool:
        """Whether the model's preprocessing only normalises what has its size already."""
        side = self._square.image_size
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        expected = self._transform.prepare(Photo(noise, side, side, None))
        values = noise.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        return expected.shape == values.shape and np.array_equal((values - self._mean) / self._std, expected)


def _laid_out(pixels: Tensor) -> Tensor:
    """On a GPU, all channels of a pixel lie side by side, as its convolutions want them."""
    is_gpu = pixels.device.type == "cuda"
    return pixels.contiguous(memory_format=torch.channels_last if is_gpu else torch.contiguous_format)
