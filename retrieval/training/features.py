"""The towers' outputs for a set of captioned images, computed once and memory-mapped.

Frozen towers make training fit two cores. Every image is seen in several views, so that the heads cannot learn pictures
by heart."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from indexes.errors import CrosslookError
from indexes.files import replace_durably
from retrieval.captions import CaptionedImage, CaptionSet, read_image_bytes
from retrieval.cores import usable_cores
from retrieval.images import Photo, UnreadableImage, decode
from retrieval.training.heads import DIM
from retrieval.training.parallel import on_device
from retrieval.training.towers import Sight, Towers

VERSION = 4
TEXT_ARRAYS = ("texts", "words", "starts", "numbers")
FEWEST_TEXTS = 8
IMAGES_AT_ONCE = 32
TEXTS_AT_ONCE = 512
WHOLE, MIRRORED = 0, 1
SMALLEST_CROP = 0.5
JITTER = 0.2


@dataclass(frozen=True)
class Features:
    """cells, whole: float16 [views, images, ...], see `Towers`. texts: float16 [captions, n], likewise.
    words: float16 [all words, 768], those of caption i at starts[i]:starts[i + 1]. image_of_text: int64 [captions],
    ascending.

    numbers: int64 [all words], each word's in the vocabulary of the set, from 0, or -1 for one that is rare or a mark.
    key: tells the images, captions, views and towers from others."""

    cells: NDArray[np.float16]
    whole: NDArray[np.float16]
    texts: NDArray[np.float16]
    words: NDArray[np.float16]
    starts: NDArray[np.int64]
    image_of_text: NDArray[np.int64]
    numbers: NDArray[np.int64]
    key: str = ""

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
) -> Features:
    """The features of the images and captions of some sets, from the folder `cache` if they are there, whole.

    views: how many of each image: as it is, mirrored, then random crops with their colours shifted a little, the same
    ones every time. progress: told how many views of images, or captions, are done, and how many there are. Raises
    `CrosslookError` when an image cannot be read: leave it out of the set."""
    images = [(each, image) for each in sets for image in each.images]
    texts = [caption for _, image in images for caption in image.captions]
    folder = cache / _key([str(views), towers.fingerprint, *(_where(*image) for image in images)])
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _compute_images(images, towers, folder, views, progress)
        replace_durably(folder / "complete", b"")
    text_folder = cache / _key([towers.fingerprint, *texts])
    if not (text_folder / "complete").exists():
        text_folder.mkdir(parents=True, exist_ok=True)
        _compute_texts(texts, towers, text_folder, progress)
        replace_durably(text_folder / "complete", b"")

    def load(folder: Path, name: str) -> NDArray[Any]:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    return Features(
        **{name: load(folder, name) for name in ("cells", "whole")},
        **{name: load(text_folder, name) for name in TEXT_ARRAYS},
        image_of_text=np.repeat(np.arange(len(images)), [len(image.captions) for _, image in images]),
        key=f"{folder.name}-{text_folder.name}",
    )


def _key(parts: Sequence[str]) -> str:
    text = "\0".join([str(VERSION), *parts])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _where(captions: CaptionSet, image: CaptionedImage) -> str:
    return f"{captions.source.absolute()}\0{image.image}"


def _compute_images(
    images: Sequence[tuple[CaptionSet, CaptionedImage]],
    towers: Towers,
    folder: Path,
    views: int,
    progress: Callable[[int, int], None],
) -> None:
    shape = (views, len(images))
    cells = np.lib.format.open_memmap(folder / "cells.npy", "w+", np.float16, (*shape, *towers.cells))
    whole = np.lib.format.open_memmap(folder / "whole.npy", "w+", np.float16, (*shape, towers.whole))
    for index, seen in _views_of_all(images, towers, views):
        for low in range(0, views, IMAGES_AT_ONCE):
            some = list(seen[low : low + IMAGES_AT_ONCE])
            cells[low : low + len(some), index], whole[low : low + len(some), index] = towers.see(some)
        progress((index + 1) * views, views * len(images))
    cells.flush()
    whole.flush()


def _views_of_all(
    images: Sequence[tuple[CaptionSet, CaptionedImage]], towers: Towers, views: int
) -> Iterator[tuple[int, list[NDArray[Any]]]]:
    """Each image's index and views, decoded some way ahead by threads."""
    ahead = 4 * usable_cores()
    with ThreadPoolExecutor(usable_cores()) as threads:
        jobs = []
        for index, (captions, image) in enumerate(images):
            jobs.append(threads.submit(_views, captions, image, towers, views, index))
            if index >= ahead:
                yield index - ahead, jobs[index - ahead].result()
                jobs[index - ahead] = None  # type: ignore[call-overload]
        for index in range(max(0, len(images) - ahead), len(images)):
            yield index, jobs[index].result()


def _views(captions: CaptionSet, image: CaptionedImage, towers: Towers, views: int, seed: int) -> list[NDArray[Any]]:
    photo = photo_of(captions, image, towers.image_size)
    return [view(photo, number, towers, np.random.default_rng([seed, number])) for number in range(views)]


def photo_of(captions: CaptionSet, image: CaptionedImage, side: int) -> Photo:
    """Raises `CrosslookError` when it cannot be read."""
    try:
        return decode(read_image_bytes(captions, image), side)
    except UnreadableImage as error:
        raise CrosslookError(f"{image.image} of {captions.source} {error}: leave it out of the captions") from error


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


def _compute_texts(texts: Sequence[str], towers: Towers, folder: Path, progress: Callable[[int, int], None]) -> None:
    pieces = [towers.words.pieces(text) for text in texts]
    lengths = [len(each) for each in pieces]
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    shapes = {"texts": (len(texts), towers.texts), "words": (int(starts[-1]), 2 * towers.words.dim)}
    maps = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape)
        for name, shape in shapes.items()
    }
    for low in range(0, len(texts), TEXTS_AT_ONCE):
        high = min(low + TEXTS_AT_ONCE, len(texts))
        maps["texts"][low:high], found = towers.read(texts[low:high])
        maps["words"][starts[low] : starts[high]] = found.tokens[found.mask]
        progress(high, len(texts))
    for each in maps.values():
        each.flush()
    np.save(folder / "starts.npy", starts)
    np.save(folder / "numbers.npy", number_words(pieces, towers.words.markers))


def number_words(pieces: Sequence[Sequence[int]], markers: Sequence[int]) -> NDArray[np.int64]:
    """The number of each word piece of all texts in the vocabulary, which is all pieces that enough texts have, or -1;
    int64 [all words]. pieces: ids of each text's pieces. markers: ids that are no words."""
    count = Counter(piece for text in pieces for piece in set(text) if piece not in markers)
    known = sorted(piece for piece, texts in count.items() if texts >= FEWEST_TEXTS)
    number = {piece: index for index, piece in enumerate(known)}
    return np.array([number.get(piece, -1) for text in pieces for piece in text], dtype=np.int64)
