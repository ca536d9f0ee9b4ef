"""Made-up captioned images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from retrieval.captions import read_captions
from tests.support import write_photos

WORDS = ["red", "green", "blue", "dog", "cat", "beach", "child", "house", "tree", "boat"]


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 12)
    return tmp_path / "photos"


@pytest.fixture
def captions(photos):
    """Twelve images with one to three captions each."""
    rng = np.random.default_rng(0)
    lines = [
        {
            "image": path.name,
            "captions": [" ".join(rng.choice(WORDS, 2 + index % 5)) + f" {path.stem}" for _ in range(1 + index % 3)],
            "split": "dev",
        }
        for index, path in enumerate(sorted(photos.iterdir()))
    ]
    file = photos.parent / "captions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_captions(file, images_dir=photos)
