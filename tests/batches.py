"""Made-up batches for collections, and what lies on disk. Knows `indexes` alone, so that its tests may use it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from indexes.manifest import Binding
from indexes.rows import Failure, Row, failures_table, rows_table
from indexes.segment_files import Batch

BINDING = Binding("fake", "f" * 16, 8, (2, 3), "float16")


def make_batch(
    first_id: int,
    count: int,
    *,
    seed: int = 0,
    failures: int = 0,
    folder: str = "/photos",
    binding: Binding = BINDING,
) -> Batch:
    """Rows of random unit-norm embeddings and of random regions, and failures, with ids from `first_id`."""
    rng = np.random.default_rng([seed, first_id])
    rows = [
        Row(first_id + index, f"{folder}/{first_id + index}.jpg".encode(), 10, 20, bytes(16), 4, 3, None)
        for index in range(count)
    ]
    failed = [
        Failure(first_id + count + index, f"{folder}/bad{first_id + index}.jpg".encode(), 1, 2, 3, 0, "is damaged")
        for index in range(failures)
    ]
    embeddings = rng.normal(size=(count, binding.dim)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    regions = rng.normal(size=(count, *binding.region_shape))
    return Batch(rows_table(rows), failures_table(failed), [embeddings], [regions])


def copy_tree_bytes(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by its path from there."""
    return {
        os.path.relpath(os.path.join(root, name), folder): Path(root, name).read_bytes()
        for root, _, names in os.walk(folder)
        for name in names
    }
