"""What a collection holds, to compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexes.collection import Collection
from indexes.commits import find_commit
from indexes.manifest import AnnEntry, Manifest
from indexes.rows import ROW_SCHEMA


def contents(path: Path) -> list[tuple[Any, ...]]:
    """For every image that counts, all values of its row, its embedding and its regions."""
    collection = Collection.open(path)
    table = collection.table(ROW_SCHEMA.names)
    positions = table["position"].to_numpy()
    vectors = zip(collection.embeddings(positions).tolist(), collection.regions(positions).tolist(), strict=True)
    rows = table.drop_columns(["position"]).to_pylist()
    return [(*row.values(), *pair) for row, pair in zip(rows, vectors, strict=True)]


def manifest_of(path: Path) -> Manifest:
    """The manifest in force."""
    commit = find_commit(path)
    assert commit is not None
    return commit.manifest


def ann_entry(path: Path) -> AnnEntry:
    """The entry of the ANN index in force, which there must be."""
    entry = manifest_of(path).ann
    assert entry is not None
    return entry


def removed_rows(collection: Collection, columns: Sequence[str]) -> pa.Table:
    """These columns of the rows that are dead and can be revived, with their `position`."""
    dead, positions = collection.dead(columns), []
    for start, segment in zip(collection.starts.tolist(), collection.segments, strict=False):
        removed = segment.deletions.entries[segment.deletions.removed]
        positions.append(start + removed[removed < len(segment)])
    return dead.filter(pa.array(np.isin(dead["position"].to_numpy(), np.concatenate([*positions, []]))))
