"""Hard negatives: groups of images that the heads take for one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 30
AT_ONCE = 1000


def confusable(
    images: NDArray[np.float32], texts: NDArray[np.float32], image_of_text: NDArray[np.int64], count: int = NEIGHBOURS
) -> NDArray[np.int64]:
    """For each image the others that it is most easily confused with, in no order, int64 [images, count] or as many as
    there are: those whose similarity to its captions, and of theirs to it, is largest in sum.

    images: [n, dim], texts: [t, dim], by the heads. image_of_text: int64 [t]."""
    sums = np.zeros_like(images)
    np.add.at(sums, image_of_text, texts)
    captions = sums / np.maximum(np.bincount(image_of_text, minlength=len(images)), 1)[:, None]
    count = min(count, len(images) - 1)
    found = np.empty((len(images), count), np.int64)
    for low in range(0, len(images), AT_ONCE):
        rows = np.arange(low, min(low + AT_ONCE, len(images)))
        likeness = captions[rows] @ images.T + images[rows] @ captions.T
        likeness[np.arange(len(rows)), rows] = -np.inf
        found[rows] = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
    return found


def grouped_order(neighbours: NDArray[np.int64], group: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of all images, in groups: each image that begins one is followed by `group` - 1 of its neighbours
    that have not had their turn, so that batches cut from it hold hard negatives. Where fewer are left, they come at
    the end, and do not divide the groups of others. neighbours: int64 [n, m]."""
    used = np.zeros(len(neighbours), np.bool_)
    whole: list[int] = []
    short: list[int] = []
    for image in rng.permutation(len(neighbours)):
        if used[image]:
            continue
        near = rng.permutation(neighbours[image])
        chosen = [int(image), *near[~used[near]][: group - 1].tolist()]
        used[chosen] = True
        (whole if len(chosen) == group else short).extend(chosen)
    return np.array(whole + short, dtype=np.int64)
