"""The towers' outputs for a set of captioned images, computed once and memory-mapped.

Frozen towers make training fit two cores. Every image is seen in several views, so that the heads cannot learn pictures
by heart."""

from __future__ import annotations

import hashlib
import json
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
from retrieval.encoders.lite import LiteEncoder
from retrieval.encoders.runtime import usable_cores
from retrieval.images import Photo, UnreadableImage, decode
from retrieval.training.cells import CELLS, CHANNELS, Cells

VERSION = 1
IMAGES_AT_ONCE = 32
TEXTS_AT_ONCE = 512
WHOLE, MIRRORED = 0, 1
SMALLEST_CROP = 0.5
JITTER = 0.2


@dataclass(frozen=True)
class Features:
    """cells: float16 [views, images, 49, 934]. logits: float16 [views, images, 1000]. texts: float16 [captions, 384].
    words: float16 [all words, 384], those of caption i at starts[i]:starts[i + 1]. image_of_text: int64 [captions],
    ascending."""

    cells: NDArray[np.float16]
    logits: NDArray[np.float16]
    texts: NDArray[np.float16]
    words: NDArray[np.float16]
    starts: NDArray[np.int64]
    image_of_text: NDArray[np.int64]

    @property
    def images(self) -> int:
        return int(self.cells.shape[1])

    def words_of(self, texts: Sequence[int] | NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [n, longest, 384] and bool mask [n, longest]."""
        lengths = self.starts[np.asarray(texts) + 1] - self.starts[np.asarray(texts)]
        padded = np.zeros((len(lengths), int(lengths.max()), self.words.shape[1]), np.float32)
        for row, text in enumerate(texts):
            padded[row, : lengths[row]] = self.words[self.starts[text] : self.starts[text + 1]]
        mask = np.arange(padded.shape[1]) < lengths[:, None]
        return torch.from_numpy(padded), torch.from_numpy(mask)


def cached_features(
    sets: Sequence[CaptionSet],
    encoder: LiteEncoder,
    cache: Path,
    views: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """The features of the images and captions of some sets, from the folder `cache` if they are there, whole.

    views: how many of each image: as it is, mirrored, then random crops with their colours shifted a little, the same
    ones every time. progress: told views of images done, and how many there are. Raises `CrosslookError` when an image
    cannot be read: leave it out of the set."""
    images = [(each, image) for each in sets for image in each.images]
    folder = cache / _key(images, encoder, views)
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _compute_images(images, encoder, folder, views, progress)
        _compute_texts([image for _, image in images], encoder, folder)
        replace_durably(folder / "complete", b"")
    return Features(
        *(
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("cells", "logits", "texts", "words", "starts", "image_of_text")
        )
    )


def _key(images: Sequence[tuple[CaptionSet, CaptionedImage]], encoder: LiteEncoder, views: int) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, encoder.tower_fingerprint, views]).encode())
    for captions, image in images:
        parts = [str(captions.source.absolute()), image.image, *image.captions, ""]
        digest.update("\0".join(parts).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _compute_images(
    images: Sequence[tuple[CaptionSet, CaptionedImage]],
    encoder: LiteEncoder,
    folder: Path,
    views: int,
    progress: Callable[[int, int], None],
) -> None:
    shape = (views, len(images))
    cells = np.lib.format.open_memmap(folder / "cells.npy", "w+", np.float16, (*shape, CELLS, CHANNELS))
    logits = np.lib.format.open_memmap(folder / "logits.npy", "w+", np.float16, (*shape, 1000))
    as_cells = Cells()
    for index, seen in _views_of_all(images, encoder.image_size, views):
        for low in range(0, views, IMAGES_AT_ONCE):
            some = list(seen[low : low + IMAGES_AT_ONCE])
            found, *maps = encoder.maps(some, ["logits", "stride8", "stride16", "stride32"])
            with torch.inference_mode():
                made = as_cells(torch.from_numpy(np.stack(some)), *(torch.from_numpy(each) for each in maps))
            cells[low : low + len(some), index] = made.numpy()
            logits[low : low + len(some), index] = found
        progress((index + 1) * views, views * len(images))
    cells.flush()
    logits.flush()


def _views_of_all(
    images: Sequence[tuple[CaptionSet, CaptionedImage]], side: int, views: int
) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    """Each image's index and views, decoded some way ahead by threads."""
    ahead = 4 * usable_cores()
    with ThreadPoolExecutor(usable_cores()) as threads:
        jobs = []
        for index, (captions, image) in enumerate(images):
            jobs.append(threads.submit(_views, captions, image, side, views, index))
            if index >= ahead:
                yield index - ahead, jobs[index - ahead].result()
                jobs[index - ahead] = None  # type: ignore[call-overload]
        for index in range(max(0, len(images) - ahead), len(images)):
            yield index, jobs[index].result()


def _views(captions: CaptionSet, image: CaptionedImage, side: int, views: int, seed: int) -> list[NDArray[np.uint8]]:
    try:
        photo = decode(read_image_bytes(captions, image), side)
    except UnreadableImage as error:
        raise CrosslookError(f"{image.image} of {captions.source} {error}: leave it out of the captions") from error
    return [view(photo, number, side, np.random.default_rng([seed, number])) for number in range(views)]


def view(photo: Photo, number: int, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 [side, side, 3]. Number 0: the whole picture; 1: mirrored; further ones: a random half or more of it, its
    shape changed by up to a third, mirrored or not, brightness, contrast and colour shifted by up to a fifth."""
    picture = Image.fromarray(photo.pixels)
    box = None
    if number > MIRRORED:
        area, ratio = rng.uniform(SMALLEST_CROP, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = min(1.0, float(np.sqrt(area * ratio))), min(1.0, float(np.sqrt(area / ratio)))
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        box = (
            left * picture.width,
            top * picture.height,
            (left + width) * picture.width,
            (top + height) * picture.height,
        )
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    if number > MIRRORED:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = enhance(picture).enhance(float(rng.uniform(1 - JITTER, 1 + JITTER)))
    pixels = np.asarray(picture)
    mirrored = number == MIRRORED or (number > MIRRORED and rng.random() < 0.5)
    return np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels


def _compute_texts(images: Sequence[CaptionedImage], encoder: LiteEncoder, folder: Path) -> None:
    texts = [caption for image in images for caption in image.captions]
    embeddings, words, lengths = [], [], []
    for low in range(0, len(texts), TEXTS_AT_ONCE):
        found = encoder.tower_texts(texts[low : low + TEXTS_AT_ONCE])
        embeddings.append(found.embeddings.astype(np.float16))
        words.append(found.tokens[found.mask].astype(np.float16))
        lengths.append(found.mask.sum(axis=1))
    save: dict[str, NDArray[Any]] = {
        "texts": np.concatenate(embeddings),
        "words": np.concatenate(words),
        "starts": np.cumsum([0, *np.concatenate(lengths)], dtype=np.int64),
        "image_of_text": np.repeat(np.arange(len(images)), [len(image.captions) for image in images]),
    }
    for name, array in save.items():
        np.save(folder / f"{name}.npy", array)
