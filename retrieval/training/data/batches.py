"""The content of one training step: views of images and captions of them, drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.training.parallel import world

if TYPE_CHECKING:
    from retrieval.training.data.features import Features
    from retrieval.training.data.inputs import Inputs


@dataclass(frozen=True)
class Drawn:
    """images, views: int64 [n], an image and which view of it. texts: int64 [t], captions of these images."""

    images: NDArray[np.int64]
    views: NDArray[np.int64]
    texts: NDArray[np.int64]


class Batches:
    """Draws from features. inputs: their standardisation."""

    def __init__(self, features: Features, inputs: Inputs) -> None:
        self.features = features
        self._inputs = inputs
        self._text_count = np.bincount(features.image_of_text, minlength=features.image_count)
        self._first_text = np.concatenate([[0], np.cumsum(self._text_count)[:-1]])

    def draw_views(self, images: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """A random view of each image, int64 [images]."""
        return rng.integers(len(self.features.cells), size=len(images))

    def views(self, drawn: Drawn) -> dict[str, torch.Tensor]:
        """The views that were drawn: `cells` and `global_features`, standardised, and the global features as they are,
        `unstandardised`. float32 on the device of the training."""
        global_features = self.features.rows_of("global_features", drawn.views, drawn.images)
        cells, standardised = self._inputs(self.features.rows_of("cells", drawn.views, drawn.images), global_features)
        return {"cells": cells, "global_features": standardised, "unstandardised": global_features}

    def texts(self, images: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`count` random captions of each image, int64 [images, count]; distinct if the image has so many."""
        return np.stack([self._draw_texts(image, count, rng) for image in images])

    def _draw_texts(self, image: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        available = int(self._text_count[image])
        chosen = rng.permutation(available)[:count] if available >= count else rng.integers(available, size=count)
        return np.asarray(self._first_text[image] + chosen, dtype=np.int64)


def part_of_batch(batch: int, images: int) -> int:
    """How many images of each batch this process takes. batch: images of all processes. images: in the training set."""
    return max(2, min(batch, images) // world())


def steps_an_epoch(images: int, batch: int) -> int:
    """How many batches make one pass over all images. batch: images of this process."""
    return max(1, images // (batch * world()))


def endless(order: Callable[[], NDArray[np.int64]]) -> Iterator[int]:
    """The images of one order after another, without end."""
    while True:
        yield from order().tolist()


def take(images: Iterator[int], count: int) -> NDArray[np.int64]:
    """The next `count` distinct images."""
    taken: dict[int, None] = {}
    while len(taken) < count:
        taken[next(images)] = None
    return np.array(list(taken), dtype=np.int64)
