"""What a collection holds, and what a run reports, as tests compare it."""

from __future__ import annotations

import os
from pathlib import Path

from indexes.collection import Collection
from retrieval.progress import Observer, Progress


def stored(path: Path) -> dict[str, tuple[int, list[float]]]:
    """Name -> (id, embedding) of the rows that count."""
    collection = Collection.open(path)
    ids = collection.table(["id"])["id"].to_pylist()
    return dict(zip(map(_name, embeddings(path)), zip(ids, embeddings(path).values(), strict=True), strict=True))


def embeddings(path: Path) -> dict[bytes, list[float]]:
    """Path -> embedding of the rows that count."""
    collection = Collection.open(path)
    table = collection.table(["path"])
    vectors = collection.embeddings(table["position"].to_numpy()).tolist()
    return dict(zip(table["path"].to_pylist(), vectors, strict=True))


def names(path: Path) -> list[str]:
    """The names of the rows that count, sorted."""
    return sorted(map(_name, embeddings(path)))


def failures(path: Path) -> dict[str, str]:
    """Name -> reason of the files that failed."""
    return {_name(row["path"]): row["error"] for row in Collection.open(path).failures().to_pylist()}


def counts(progress: Progress) -> dict[str, int]:
    """The counts of a run, without zeros."""
    names = ("new", "changed", "moved", "removed", "failed", "unchanged", "still_failing")
    return {name: getattr(progress, name) for name in names if getattr(progress, name)}


def collected(lines: list[tuple[str, str]]) -> Observer:
    """An observer that adds the name and the reason of every failure to `lines`."""
    return Observer(failure=lambda file, reason: lines.append((_name(file), reason)))


def _name(path: bytes) -> str:
    return Path(os.fsdecode(path)).name
