"""Views of all images in their order, decoded in advance by threads, as many as memory allows.

How large a decoded photo is, is known once it is there: a JPEG is decoded at the size that is needed, another file at
its own. So images that wait to be decoded are counted with the mean of those that were."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.captions import CaptionedImage, CaptionSet
from retrieval.cores import usable_cores
from retrieval.training.data.photos import Captioned, UnusablePhoto, photo_of
from retrieval.training.data.views import view

if TYPE_CHECKING:
    from retrieval.training.data.towers import Towers

Views = list[NDArray[Any]] | UnusablePhoto
GROUP_BYTES = 1_000_000_000  # of the views of a group, and again of those decoded in advance
FIRST_BYTES = 20_000_000  # of an image, before one is known


def views_in_groups(
    images: Sequence[Captioned], towers: Towers, views: int, at_once: int, group_bytes: int = GROUP_BYTES
) -> Iterator[list[tuple[int, Views]]]:
    """Index and views of every image, or why it cannot be read, in groups of `at_once` images, or fewer if their views
    take more than `group_bytes`."""
    group: list[tuple[int, Views]] = []
    size = 0
    for index, item in enumerate(_in_advance(images, towers, views, max(4 * usable_cores(), 2 * at_once), group_bytes)):
        if len(group) == at_once or (group and size + bytes_of(item) > group_bytes):
            yield group
            group, size = [], 0
        group.append((index, item))
        size += bytes_of(item)
    if group:
        yield group


def bytes_of(item: Views) -> int:
    """Of the views of one image."""
    return 0 if isinstance(item, UnusablePhoto) else sum(part.nbytes for part in item)


def _in_advance(images: Sequence[Captioned], towers: Towers, views: int, most: int, most_bytes: int) -> Iterator[Views]:
    """The views of all images. Threads decode at most `most` of them in advance, of about `most_bytes`, but always as
    many as there are threads."""
    sizes = _Sizes()
    jobs: deque[Future[Views]] = deque()
    waiting = enumerate(images)
    with ThreadPoolExecutor(usable_cores()) as threads:
        while True:
            while len(jobs) < usable_cores() or (len(jobs) < most and sizes.expected(len(jobs)) < most_bytes):
                index, image = next(waiting, (0, None))
                if image is None:
                    break
                jobs.append(threads.submit(_measured, sizes, *image, towers, views, index))
            if not jobs:
                return
            item = jobs.popleft().result()
            sizes.taken(bytes_of(item))
            yield item


class _Sizes:
    """Bytes of the images that are decoded and not taken yet."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = self._bytes = 0  # of all that were decoded
        self._taken = self._taken_bytes = 0

    def decoded(self, size: int) -> None:
        with self._lock:
            self._count += 1
            self._bytes += size

    def taken(self, size: int) -> None:
        with self._lock:
            self._taken += 1
            self._taken_bytes += size

    def expected(self, jobs: int) -> float:
        """Bytes of this many images when all of them are decoded."""
        with self._lock:
            coming = jobs - (self._count - self._taken)
            mean = self._bytes / self._count if self._count else FIRST_BYTES
            return self._bytes - self._taken_bytes + coming * mean


def _measured(
    sizes: _Sizes, captions: CaptionSet, image: CaptionedImage, towers: Towers, views: int, seed: int
) -> Views:
    item = _views(captions, image, towers, views, seed)
    sizes.decoded(bytes_of(item))
    return item


def _views(captions: CaptionSet, image: CaptionedImage, towers: Towers, views: int, seed: int) -> Views:
    try:
        photo = photo_of(captions, image, towers.image_size)
    except UnusablePhoto as error:
        return error
    return [view(photo, number, towers, np.random.default_rng([seed, number])) for number in range(views)]
