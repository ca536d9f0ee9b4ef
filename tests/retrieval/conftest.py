"""Fixtures for the tests of `retrieval`."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexes.collection import Collection
from retrieval.encoders.lite import LiteEncoder
from retrieval.engine import Engine
from retrieval.indexing.pipeline import index_folders
from tests.support import FakeEncoder, write_photos


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def path(tmp_path: Path, encoder: FakeEncoder) -> Path:
    """A collection of six photos in each of the folders `photos/a` and `photos/b`."""
    write_photos(tmp_path / "photos" / "a", 6)
    write_photos(tmp_path / "photos" / "b", 6, first=6)
    index_folders([tmp_path / "photos"], tmp_path / "collection", encoder)
    return tmp_path / "collection"


@pytest.fixture
def engine(path: Path, encoder: FakeEncoder) -> Engine:
    """Without a scorer, over the collection at `path`."""
    return Engine(Collection.open(path), encoder)


@pytest.fixture(scope="session")
def lite() -> LiteEncoder:
    return LiteEncoder(device="cpu")
