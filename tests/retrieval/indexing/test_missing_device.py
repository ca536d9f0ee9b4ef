"""A device that there is not is named before a collection is made."""

from __future__ import annotations

import pytest

from indexes.errors import CrosslookError
from retrieval.indexing.pipeline import index_folders, index_images
from tests.support import PixelEncoder


def no_device(encoder: PixelEncoder) -> bool:
    raise CrosslookError("torch finds no CUDA device: use --device cpu")


def test_no_collection_is_left(photos, path, monkeypatch):
    monkeypatch.setattr(PixelEncoder, "takes_pixels", property(no_device))
    with pytest.raises(CrosslookError, match="no CUDA device"):
        index_folders([photos], path, PixelEncoder())
    with pytest.raises(CrosslookError, match="no CUDA device"):
        index_images([b"000.png"], lambda name: (photos / "000.png").read_bytes(), path, PixelEncoder())
    assert not path.exists()
