"""Made-up inputs that several tests share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from indexes.manifest import Binding
from indexes.rows import Failure, Row, failures_table, rows_table
from indexes.segment_files import Batch
from retrieval.encoders.base import ImageFeatures, TextFeatures, unit_norm
from retrieval.images import Photo

BINDING = Binding("fake", "f" * 16, 8, (2, 3), "float16")


def make_batch(first_id: int, count: int, *, seed: int = 0, failures: int = 0, folder: str = "/photos") -> Batch:
    """Rows of random unit-norm embeddings, and failures, with ids from `first_id`."""
    rng = np.random.default_rng([seed, first_id])
    rows = [
        Row(first_id + index, f"{folder}/{first_id + index}.jpg".encode(), 10, 20, bytes(16), 4, 3, None)
        for index in range(count)
    ]
    failed = [
        Failure(first_id + count + index, f"{folder}/bad{first_id + index}.jpg".encode(), 1, 2, 3, 0, "is damaged")
        for index in range(failures)
    ]
    embeddings = unit_norm(rng.normal(size=(count, BINDING.dim)))
    tokens = rng.normal(size=(count, *BINDING.token_shape))
    return Batch(rows_table(rows), failures_table(failed), [embeddings], [tokens])


class FakeEncoder:
    """A dual encoder of no sense but exact repeatability: a fixed random projection of the picture."""

    batch_size = 4
    folder = None
    image_size = 8
    max_words = 6

    def __init__(self, name: str = "fake", fingerprint: str = "f" * 16) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.dim = BINDING.dim
        self.token_shape = BINDING.token_shape
        self.token_dtype = BINDING.token_dtype
        self.encoded = 0
        self._projection = np.random.default_rng(0).normal(size=(8 * 8 * 3, self.dim))

    def prepare(self, photo: Photo) -> NDArray[Any]:
        return np.asarray(Image.fromarray(photo.pixels).resize((8, 8)), dtype=np.float32) / 255 - 0.5

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        self.encoded += len(prepared)
        flat = np.stack(prepared).reshape(len(prepared), -1)
        tokens = flat[:, :6].reshape(len(prepared), *self.token_shape)
        # Not a matrix product, whose rounding may depend on the number of rows.
        return ImageFeatures(unit_norm(np.einsum("np,pd->nd", flat, self._projection)), tokens.astype(np.float16))

    def encode_texts(self, texts: Sequence[str]) -> TextFeatures:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
        embeddings = unit_norm(np.stack([np.random.default_rng(seed).normal(size=self.dim) for seed in seeds]))
        lengths = np.array([len(text.split()) for text in texts])
        longest = min(int(lengths.max()), self.max_words)
        mask = np.arange(longest) < lengths[:, None]
        return TextFeatures(embeddings, np.ones((len(texts), longest, 3), np.float32), mask, lengths > self.max_words)


def write_photos(folder: Path, count: int, *, first: int = 0, ending: str = ".png") -> list[Path]:
    """Small pictures, each of its own random colours, named by number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:03d}{ending}" for index in range(first, first + count)]
    for index, path in enumerate(paths, start=first):
        write_photo(path, seed=index)
    return paths


def write_photo(path: Path | bytes, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    with open(path, "wb") as file:
        Image.fromarray(pixels).save(file, "PNG")


def copy_tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {
        os.path.relpath(os.path.join(root, name), folder): Path(root, name).read_bytes()
        for root, _, names in os.walk(folder)
        for name in names
    }


TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 48, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2},
}
