"""A made-up encoder and made-up pictures, which several tests share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.encoders.base import ImageFeatures, QueryFeatures, TextQueries, unit_norm
from retrieval.images import Photo
from tests.batches import BINDING


class FakeEncoder(TextQueries):
    """A repeatable dual encoder without training: a fixed random projection of the picture."""

    batch_size = 4
    folder: Path | None = None
    image_size = 8
    takes_pixels = False
    max_tokens = 6

    def __init__(self, name: str = "fake", fingerprint: str = "f" * 16) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.dim = BINDING.dim
        self.region_shape = BINDING.region_shape
        self.region_dtype = BINDING.region_dtype
        self.encoded = 0
        self._projection = np.random.default_rng(0).normal(size=(8 * 8 * 3, self.dim))

    def prepare(self, photo: Photo) -> NDArray[Any]:
        return np.asarray(Image.fromarray(photo.pixels).resize((8, 8)), dtype=np.float32) / 255 - 0.5

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        self.encoded += len(prepared)
        flat = np.stack(prepared).reshape(len(prepared), -1)
        regions = flat[:, :6].reshape(len(prepared), *self.region_shape)
        # Not a matrix product, whose rounding may depend on the number of rows.
        return ImageFeatures(unit_norm(np.einsum("np,pd->nd", flat, self._projection)), regions.astype(np.float16))

    def token_spans(self, text: str) -> None:
        """None: this encoder does not know them."""

    def encode_texts(self, texts: Sequence[str]) -> QueryFeatures:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
        embeddings = unit_norm(np.stack([np.random.default_rng(seed).normal(size=self.dim) for seed in seeds]))
        lengths = np.array([len(text.split()) for text in texts])
        longest = min(int(lengths.max()), self.max_tokens)
        mask = np.arange(longest) < lengths[:, None]
        regions = np.repeat(mask[:, :, None], 3, axis=2).astype(np.float32)
        return QueryFeatures(embeddings, regions, mask, lengths > self.max_tokens)


def write_photos(folder: Path, count: int, *, first: int = 0, ending: str = ".png") -> list[Path]:
    """Write small pictures of random colours, no two alike, named by number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:03d}{ending}" for index in range(first, first + count)]
    for index, path in enumerate(paths, start=first):
        write_photo(path, seed=index)
    return paths


def write_photo(path: Path | bytes, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    with open(path, "wb") as file:
        Image.fromarray(pixels).save(file, "PNG")


class PixelEncoder(FakeEncoder):
    """The same encoder as it is on a GPU: it takes the pixels as they are, several batches at once."""

    takes_pixels = True

    def prepare(self, photo: Photo) -> NDArray[Any]:
        return photo.pixels

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        photos = [Photo(pixels, pixels.shape[1], pixels.shape[0], None) for pixels in prepared]
        return super().encode_images([super(PixelEncoder, self).prepare(photo) for photo in photos])
