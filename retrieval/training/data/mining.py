"""Hard negatives: groups of images that the heads confuse with one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 30
AT_ONCE = 1000


def confusable(
    images: NDArray[np.float32], texts: NDArray[np.float32], image_of_text: NDArray[np.int64], count: int = NEIGHBOURS
) -> NDArray[np.int64]:
    """For each image, the other images that it is most easily confused with, unordered: int64 [images, count].

    Two images are confused if each is similar to the captions of the other; the measure is the sum of both
    similarities. Of fewer than `count` other images, all are returned. images: float [n, dim], texts: float [t, dim],
    embeddings by the heads. image_of_text: int64 [t]."""
    sums = np.zeros_like(images)
    np.add.at(sums, image_of_text, texts)
    captions = sums / np.maximum(np.bincount(image_of_text, minlength=len(images)), 1)[:, None]
    count = min(count, len(images) - 1)
    neighbours = np.empty((len(images), count), np.int64)
    for low in range(0, len(images), AT_ONCE):
        rows = np.arange(low, min(low + AT_ONCE, len(images)))
        confusion = captions[rows] @ images.T + images[rows] @ captions.T
        confusion[np.arange(len(rows)), rows] = -np.inf
        neighbours[rows] = np.argpartition(-confusion, count - 1, axis=1)[:, :count]
    return neighbours


def grouped_order(neighbours: NDArray[np.int64], group: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of all images in groups of `group`, so that batches cut from it hold hard negatives.

    Each group is a random image followed by `group` - 1 random neighbours of it that no earlier group has. Groups with
    fewer images come last, so that they do not shift the bounds of the complete ones. neighbours: int64 [n, m]."""
    used = np.zeros(len(neighbours), np.bool_)
    complete: list[int] = []
    short: list[int] = []
    for image in rng.permutation(len(neighbours)):
        if used[image]:
            continue
        near = rng.permutation(neighbours[image])
        chosen = [int(image), *near[~used[near]][: group - 1].tolist()]
        used[chosen] = True
        (complete if len(chosen) == group else short).extend(chosen)
    return np.array(complete + short, dtype=np.int64)
