"""All that counts in a collection, to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from indexes.collection import Collection
from indexes.rows import ROW_SCHEMA


def contents(path: Path) -> list[tuple[Any, ...]]:
    """Of every image that counts, all values of its row, its embedding and its tokens."""
    collection = Collection.open(path)
    table = collection.table(ROW_SCHEMA.names)
    positions = table["position"].to_numpy()
    vectors = zip(collection.embeddings(positions).tolist(), collection.tokens(positions).tolist(), strict=True)
    rows = table.drop_columns(["position"]).to_pylist()
    return [(*row.values(), *pair) for row, pair in zip(rows, vectors, strict=True)]
