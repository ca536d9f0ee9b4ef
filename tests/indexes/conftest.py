"""Fixtures of the store's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from indexes.manifest import AnnEntry
from indexes.writer import CollectionWriter
from tests.batches import BINDING as SMALL_BINDING
from tests.indexes.ann_collections import BINDING, add_ann, batch, image_embeddings


@pytest.fixture(scope="session")
def ann_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 rows in three segments, with gaps between their ids, and an ANN index. Made once; tests must not change
    it."""
    path = tmp_path_factory.mktemp("ann") / "c"
    embeddings = image_embeddings(4_000)
    with CollectionWriter(path, BINDING) as writer:
        for low, high in ((0, 2_000), (2_000, 3_500), (3_500, 4_000)):
            writer.commit(batch(writer.manifest.next_id + 7, embeddings[low:high]))
    add_ann(path)
    return path


@pytest.fixture
def path(ann_template: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(ann_template, tmp_path / "c"))


@pytest.fixture
def with_ann(collection: Path) -> Path:
    """A small collection with a file in the place of an ANN index."""

    def make(path: Path) -> AnnEntry:
        path.write_bytes(b"lists and codes")
        return AnnEntry(bytes=15, rows=30, last_id=36)

    with CollectionWriter(collection, SMALL_BINDING) as writer:
        writer.put_ann(make)
    return collection
