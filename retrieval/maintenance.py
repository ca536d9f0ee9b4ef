"""Look after a collection: what it holds, removing folders, merging segments."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.manifest import current_binding
from indexes.writer import CollectionWriter
from retrieval.fusion import has_scorer
from retrieval.location import spellings
from retrieval.scan import is_below


@dataclass(frozen=True)
class Status:
    """What a collection holds. reranks: whether its model has a scorer. bytes: on disk. committed: when the commit in
    force was made, local time."""

    path: Path
    model: str
    fingerprint: str
    reranks: bool
    images: int
    failures: int
    folders: tuple[str, ...]
    segments: int
    tombstones: int
    bytes: int
    committed: datetime
    ann: str | None


def status(path: Path) -> Status:
    """Raises `CrosslookError` where there is no collection, or it is damaged."""
    collection = Collection.open(path)
    manifest = collection.manifest
    return Status(
        path=path,
        model=manifest.binding.model,
        fingerprint=manifest.binding.fingerprint,
        reranks=has_scorer(manifest.binding.model),
        images=len(collection),
        failures=len(collection.failures()),
        folders=manifest.folders,
        segments=len(manifest.segments),
        tombstones=len(manifest.tombstones),
        bytes=_bytes_below(path),
        committed=datetime.fromtimestamp(manifest.committed),
        ann=manifest.ann,
    )


def failures(path: Path) -> list[tuple[str, str]]:
    """The files that could not be read, with the reasons."""
    table = Collection.open(path).failures()
    return [(os.fsdecode(row["path"]), row["error"]) for row in table.select(["path", "error"]).to_pylist()]


def remove_folder(path: Path, folder: str | Path) -> int:
    """Take a folder, or one image, out of a collection; returns how many images that were. Files stay untouched.

    Raises `CrosslookError` when nothing of it is in the collection."""
    target = spellings(folder)
    with _open_writer(path) as writer:
        collection = writer.collection
        rows, failed = collection.table(["id", "path"]), collection.failures()
        gone = [row["id"] for row in rows.to_pylist() if is_below(row["path"], target)]
        forgotten = [row["id"] for row in failed.select(["id", "path"]).to_pylist() if is_below(row["path"], target)]
        folders = [name for name in writer.manifest.folders if not is_below(os.fsencode(name), target)]
        if not gone and not forgotten and len(folders) == len(writer.manifest.folders):
            raise CrosslookError(f"nothing below {folder} is in the collection {path}")
        writer.commit(dead=[*gone, *forgotten], folders=folders)
        writer.merge()
    return len(gone)


@dataclass(frozen=True)
class Optimized:
    """Numbers of segments before and after, and of tombstones that are gone."""

    before: int
    after: int
    dropped: int


def optimize(path: Path) -> Optimized:
    """Merge all segments and drop what is dead."""
    with _open_writer(path) as writer:
        old = writer.manifest
        writer.merge(everything=True)
        new = writer.manifest
        return Optimized(len(old.segments), len(new.segments), len(old.tombstones) - len(new.tombstones))


def model_of(path: Path) -> str | None:
    """The model that a collection is bound to; None where there is no collection yet."""
    binding = current_binding(path)
    return None if binding is None else binding.model


def _open_writer(path: Path) -> CollectionWriter:
    return CollectionWriter(path, Collection.open(path).binding)


def _bytes_below(folder: Path) -> int:
    """A writer may remove files meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total
