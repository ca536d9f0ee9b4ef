"""Collections with an ANN index: images around forty centres, and texts in another region, as real ones are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.ann.building import build_ann
from indexes.ann.source import Rows, Source
from indexes.collection import Collection
from indexes.manifest import Binding
from indexes.rows import Failure, Row, failures_table, rows_table
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter

DIM = 30  # no multiple of four
BINDING = Binding("fake", "f" * 16, DIM, (1, 1), "int8")
TARGET = 0.9


def unit_norm(vectors: NDArray[Any]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def around_centres(count: int, seed: int) -> NDArray[np.float64]:
    """Points around the same forty centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, DIM))
    return centres[rng.integers(40, size=count)] + 0.5 * rng.normal(size=(count, DIM))


def image_embeddings(count: int, seed: int = 0) -> NDArray[np.float16]:
    return unit_norm(around_centres(count, seed)).astype(np.float16)


def text_embeddings(count: int, seed: int = 1) -> NDArray[np.float32]:
    """In another region: all moved the same way."""
    return unit_norm(around_centres(count, seed) + 3 * np.eye(DIM)[0]).astype(np.float32)


def batch(first_id: int, embeddings: NDArray[Any], failures: Sequence[Failure] = ()) -> Batch:
    """Images in turn in the folders /even and /odd."""
    rows = [
        Row(first_id + at, f"/{'odd' if at % 2 else 'even'}/{first_id + at}.jpg".encode(), 1, 1, bytes(16), 4, 3, None)
        for at in range(len(embeddings))
    ]
    return Batch(rows_table(rows), failures_table(failures), [embeddings], [np.zeros((len(rows), 1, 1), np.int8)])


def source_of(collection: Collection, texts: NDArray[np.float32]) -> Source:
    parts = [Rows(segment.ids, segment.embeddings.mapped) for segment in collection.segments]
    return Source(parts, lambda ids: collection.embeddings(collection.positions(ids)), texts)


def add_ann(path: Path, target: float = TARGET, texts: int = 200) -> None:
    with CollectionWriter(path, BINDING) as writer:
        writer.put_ann(lambda file: build_ann(source_of(writer.collection, text_embeddings(texts)), target, file))


def exactly(
    collection: Collection, queries: NDArray[np.float32], count: int, among: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Positions of the nearest rows by one matrix product. among: positions, by default of all rows that count."""
    positions = collection.table(["path"])["position"].to_numpy() if among is None else among
    similarities = queries @ collection.embeddings(positions).astype(np.float32).T
    return positions[np.argsort(-similarities, axis=1, kind="stable")[:, :count]]


def recall(positions: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    pairs = zip(positions.tolist(), expected.tolist(), strict=True)
    return float(np.mean([len(set(row) & set(right)) / len(right) for row, right in pairs]))
