"""Towers that say next to nothing, and captioned pictures for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.captions import CaptionSet, read_captions
from retrieval.encoders.base import QueryFeatures
from tests.support import write_photos

if TYPE_CHECKING:
    from retrieval.training.data.features import Features


class WordLengths:
    """A text tower whose token ids are the lengths of the words, between zeros."""

    dim = 2
    special_ids = (0,)

    def token_ids(self, text):
        return [0, *(len(word) for word in text.split()), 0]


class MadeUpTowers:
    """Towers whose output is the mean of the picture. view_count: the number of views encoded. batches: how many at a
    time."""

    fingerprint = "made up"
    cell_shape, global_dim, text_dim, image_size = (2, 3), 4, 5, 8
    token_tower = WordLengths()

    def __init__(self, views_at_once=0):
        self.view_count = 0
        self.views_at_once = views_at_once
        self.batches = []

    def prepare(self, photo):
        return photo.pixels.astype(np.float32)

    def mirrored(self, prepared):
        return prepared[:, ::-1]

    def encode_images(self, prepared):
        self.view_count += len(prepared)
        self.batches.append(len(prepared))
        means = np.array([pixels.mean() / 256 for pixels in prepared])
        return np.ones((len(means), 2, 3)) * means[:, None, None], np.ones((len(means), 4)) * means[:, None]

    def encode_texts(self, texts):
        lengths = np.array([len(WordLengths().token_ids(text)) for text in texts])
        mask = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.ones((*mask.shape, 4), np.float32) * lengths[:, None, None]
        embeddings = np.ones((len(texts), 5), np.float32) * lengths[:, None]
        return embeddings, QueryFeatures(embeddings, tokens, mask, np.zeros(len(texts), bool))


def captioned(folder: Path, name: str, count: int = 6, first: int = 0) -> CaptionSet:
    """Pictures with two captions each."""
    paths = write_photos(folder / name, count, first=first)
    for row, path in enumerate(paths):
        path.rename(folder / name / f"{row}.png")
    lines = [{"image": f"{row}.png", "captions": [f"word {'so ' * row}", "another one"]} for row in range(count)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_captions(folder / "captions.jsonl", images_dir=folder / name)


def features_of(captions: CaptionSet, towers: Any, cache: Path, views: int = 2, **options: Any) -> Features:
    from retrieval.training.data.features import cached_features

    return cached_features([captions], towers, cache, views, **options)


def means(captions: CaptionSet) -> NDArray[np.float32]:
    """What the towers say of each picture."""
    assert captions.images_dir is not None
    pixels = [np.asarray(Image.open(captions.images_dir / image.image), np.float64) for image in captions.images]
    return np.array([picture.mean() / 256 for picture in pixels], np.float32)
