"""What a step of training sees: views of images, and some of their captions, drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.training.learning.parallel import on_device, world

if TYPE_CHECKING:
    from retrieval.training.data.features import Features
    from retrieval.training.learning.settings import Schedule
    from retrieval.training.model.heads import Inputs


class Batches:
    """Draws from features. inputs: what makes numbers of deviation 1 of them."""

    def __init__(self, features: Features, inputs: Inputs) -> None:
        self.features = features
        self._inputs = inputs
        self._text_count = np.bincount(features.image_of_text, minlength=features.images)
        self._first_text = np.concatenate([[0], np.cumsum(self._text_count)[:-1]])

    def views(
        self, images: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cells and classes of a view of each image, as `Inputs` gives them, and the class logits."""
        views = rng.integers(len(self.features.cells), size=len(images))
        logits = as_float(self.features.whole[views, images])
        return *self._inputs(as_float(self.features.cells[views, images]), logits), logits

    def texts(self, images: NDArray[np.int64], wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """So many captions of each image, distinct where it has so many, int64 [images, wanted]."""
        return np.stack([self._some_texts(image, wanted, rng) for image in images])

    def _some_texts(self, image: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
        count = int(self._text_count[image])
        chosen = rng.permutation(count)[:wanted] if count >= wanted else rng.integers(count, size=wanted)
        return np.asarray(self._first_text[image] + chosen, dtype=np.int64)


def part_of_batch(schedule: Schedule, images: int) -> int:
    """This process's images of each batch."""
    return max(2, min(schedule.batch, images) // world())


def steps_an_epoch(images: int, batch: int) -> int:
    """How many batches, of which `batch` images are this process's, go once through all images."""
    return max(1, images // (batch * world()))


def endless(order: Callable[[], NDArray[np.int64]]) -> Iterator[int]:
    """All images in an order, again and again."""
    while True:
        yield from order().tolist()


def take(images: Iterator[int], count: int) -> NDArray[np.int64]:
    """The next images, each once."""
    found: dict[int, None] = {}
    while len(found) < count:
        found[next(images)] = None
    return np.array(list(found), dtype=np.int64)


def as_float(values: NDArray[np.float16]) -> torch.Tensor:
    return on_device(np.asarray(values, dtype=np.float32))
