"""The towers' outputs for a set of captioned images, computed once and memory-mapped.

Frozen towers make training fit two cores. Every image is seen in several views, so that the heads cannot learn pictures
by heart."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.captions import CaptionedImage, CaptionSet, Skipped, stamp
from retrieval.cores import usable_cores
from retrieval.training.data.cache import Entry, RowsWriter, load_entry, make_entry, make_room
from retrieval.training.data.towers import Towers
from retrieval.training.data.views import CannotSee, Captioned, photo_of, present, view
from retrieval.training.learning.parallel import on_device
from retrieval.training.model.heads import DIM

VERSION = 5
IMAGE_ARRAYS = ("cells", "whole")
TEXT_ARRAYS = ("texts", "words", "starts", "numbers")
FEWEST_TEXTS = 8
IMAGES_AT_ONCE = 32
TEXTS_AT_ONCE = 512


@dataclass(frozen=True)
class Features:
    """cells, whole: float16 [views, images, ...], see `Towers`. texts: float16 [captions, n], likewise.
    words: float16 [all words, 768], those of caption i at starts[i]:starts[i + 1]. image_of_text: int64 [captions],
    ascending.

    numbers: int64 [all words], each word's in the vocabulary of the set, from 0, or -1 for one that is rare or a mark.
    key: tells the pictures, captions, views and towers from others. left_out: images of the sets that are not among
    them, since they cannot be read, and why."""

    cells: NDArray[np.float16]
    whole: NDArray[np.float16]
    texts: NDArray[np.float16]
    words: NDArray[np.float16]
    starts: NDArray[np.int64]
    image_of_text: NDArray[np.int64]
    numbers: NDArray[np.int64]
    key: str = ""
    left_out: tuple[Skipped, ...] = ()

    @property
    def vocabulary(self) -> torch.Tensor:
        """What each word of the vocabulary means by itself, float32 [words, 384]."""
        numbers, places = np.unique(self.numbers, return_index=True)
        rows = self.words[places[numbers >= 0], DIM:]
        return on_device(np.asarray(rows, dtype=np.float32))

    @property
    def images(self) -> int:
        return int(self.cells.shape[1])

    def words_of(self, texts: Sequence[int] | NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [n, longest, 768] and bool mask [n, longest]."""
        lengths = self.starts[np.asarray(texts) + 1] - self.starts[np.asarray(texts)]
        padded = np.zeros((len(lengths), int(lengths.max()), self.words.shape[1]), np.float32)
        for row, text in enumerate(texts):
            padded[row, : lengths[row]] = self.words[self.starts[text] : self.starts[text + 1]]
        mask = np.arange(padded.shape[1]) < lengths[:, None]
        return on_device(padded), on_device(mask)

    def numbers_of(self, texts: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
        """int64 [n, longest], of the words as `words_of` gives them; -1 also where there is none."""
        some = [self.numbers[self.starts[text] : self.starts[text + 1]] for text in texts]
        padded = np.full((len(some), max(map(len, some))), -1, np.int64)
        for row, numbers in enumerate(some):
            padded[row, : len(numbers)] = numbers
        return on_device(padded)


def cached_features(
    sets: Sequence[CaptionSet],
    towers: Towers,
    cache: Path,
    views: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    again: bool = True,
) -> Features:
    """The features of the images and captions of some sets, from the folder `cache` if they are there, whole. Files
    that were changed, and others of the same names elsewhere, are other images.

    views: how many of each image: as it is, mirrored, then random crops with their colours shifted a little, the same
    ones every time. progress: told how many views of images, or captions, are done, and how many there are. again:
    whether to compute anew what lacks an image that can be read now; a run that goes on needs what it began with.

    Images that cannot be read are left out with their captions. Raises `CrosslookError` when none is left, and when the
    cache cannot be read or written."""
    images, absent = present(sets)
    key = _key([str(views), towers.fingerprint, *(stamp(*image) for image in images)])
    entry = load_entry(cache, key, IMAGE_ARRAYS)
    if entry is None or (again and _readable_again(entry, images, towers)):
        make_entry(cache, key, lambda folder: _compute_images(images, towers, folder, views, progress))
        entry = _made(load_entry(cache, key, IMAGE_ARRAYS))
    unseen = {int(index): reason for index, reason, _ in entry.about["left_out"]}
    kept = [image for index, (_, image) in enumerate(images) if index not in unseen]
    left_out = (*absent, *(Skipped(images[index][1].image, reason) for index, reason in unseen.items()))
    if not kept:
        first = f": {left_out[0].what} ({left_out[0].why})" if left_out else ""
        raise CrosslookError(f"none of the {len(left_out)} images to train on or choose by can be read{first}")
    texts = [caption for image in kept for caption in image.captions]
    text_key = _key([towers.fingerprint, *texts])
    if (text_entry := load_entry(cache, text_key, TEXT_ARRAYS)) is None:
        make_entry(cache, text_key, lambda folder: _compute_texts(texts, towers, folder, progress))
        text_entry = _made(load_entry(cache, text_key, TEXT_ARRAYS))
    return Features(
        **{name: np.moveaxis(array, 0, 1) for name, array in entry.arrays.items()},
        **text_entry.arrays,
        image_of_text=np.repeat(np.arange(len(kept)), [len(image.captions) for image in kept]),
        key=f"{key}-{text_key}",
        left_out=left_out,
    )


def trim_cache(cache: Path, features: Sequence[Features]) -> int:
    """Make room in the cache for what is to come, but for some features; returns how many bytes it holds."""
    return make_room(cache, [key for each in features for key in each.key.split("-")])


def _made(entry: Entry | None) -> Entry:
    if entry is None:
        raise CrosslookError("features were damaged as soon as they were computed: check the disk of the cache")
    return entry


def _key(parts: Sequence[str]) -> str:
    text = "\0".join([str(VERSION), *parts])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _readable_again(entry: Entry, images: Sequence[Captioned], towers: Towers) -> bool:
    """Whether an image that the file system kept back then can be read now."""
    for index, _, passes in entry.about["left_out"]:
        if passes:
            try:
                photo_of(*images[int(index)], towers.image_size)
            except CannotSee:
                continue
            return True
    return False


def _compute_images(
    images: Sequence[Captioned],
    towers: Towers,
    folder: Path,
    views: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """[images, views, ...] as files. Returns which images are not among them: position, reason, whether it passes."""
    left_out: list[tuple[int, str, bool]] = []
    with (
        RowsWriter(folder / "cells.npy", (views, *towers.cells)) as cells,
        RowsWriter(folder / "whole.npy", (views, towers.whole)) as whole,
    ):
        for index, seen in _views_of_all(images, towers, views):
            if isinstance(seen, CannotSee):
                left_out.append((index, seen.reason, seen.passes))
            else:
                parts = [towers.see(seen[low : low + IMAGES_AT_ONCE]) for low in range(0, views, IMAGES_AT_ONCE)]
                cells.append(np.concatenate([part[0] for part in parts])[None])
                whole.append(np.concatenate([part[1] for part in parts])[None])
            progress((index + 1) * views, views * len(images))
    return {"left_out": left_out}


def _views_of_all(
    images: Sequence[Captioned], towers: Towers, views: int
) -> Iterator[tuple[int, list[NDArray[Any]] | CannotSee]]:
    """Each image's index and views, decoded some way ahead by threads, or why it has none."""
    ahead = 4 * usable_cores()
    with ThreadPoolExecutor(usable_cores()) as threads:
        jobs: deque[Future[list[NDArray[Any]] | CannotSee]] = deque()
        for index, (captions, image) in enumerate(images):
            jobs.append(threads.submit(_views, captions, image, towers, views, index))
            if len(jobs) > ahead:
                yield index - ahead, jobs.popleft().result()
        for index in range(len(images) - len(jobs), len(images)):
            yield index, jobs.popleft().result()


def _views(
    captions: CaptionSet, image: CaptionedImage, towers: Towers, views: int, seed: int
) -> list[NDArray[Any]] | CannotSee:
    try:
        photo = photo_of(captions, image, towers.image_size)
    except CannotSee as error:
        return error
    return [view(photo, number, towers, np.random.default_rng([seed, number])) for number in range(views)]


def _compute_texts(
    texts: Sequence[str], towers: Towers, folder: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    pieces = [towers.words.pieces(text) for text in texts]
    with (
        RowsWriter(folder / "texts.npy", (towers.texts,)) as embeddings,
        RowsWriter(folder / "words.npy", (2 * towers.words.dim,)) as words,
    ):
        for low in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[low : low + TEXTS_AT_ONCE]
            embedded, found = towers.read(some)
            embeddings.append(embedded)
            words.append(found.tokens[found.mask])
            progress(low + len(some), len(texts))
    with RowsWriter(folder / "starts.npy", (), "<i8") as starts:
        starts.append(np.cumsum([0, *(len(each) for each in pieces)]))
    with RowsWriter(folder / "numbers.npy", (), "<i8") as numbers:
        numbers.append(number_words(pieces, towers.words.markers))
    return {}


def number_words(pieces: Sequence[Sequence[int]], markers: Sequence[int]) -> NDArray[np.int64]:
    """The number of each word piece of all texts in the vocabulary, which is all pieces that enough texts have, or -1;
    int64 [all words]. pieces: ids of each text's pieces. markers: ids that are no words."""
    count = Counter(piece for text in pieces for piece in set(text) if piece not in markers)
    known = sorted(piece for piece, texts in count.items() if texts >= FEWEST_TEXTS)
    number = {piece: index for index, piece in enumerate(known)}
    return np.array([number.get(piece, -1) for text in pieces for piece in text], dtype=np.int64)
