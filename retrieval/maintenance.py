"""The upkeep of a collection: what it holds, removing folders, merging segments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexes.ann.base import FEWEST_ROWS
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.folders import are_in_folder, is_in_folder
from indexes.manifest import AnnEntry, Manifest
from indexes.recovery import SET_ASIDE, current_binding
from indexes.writer import CollectionWriter
from retrieval.fusion import has_scorer
from retrieval.indexing.listing import totals
from retrieval.location import spellings
from retrieval.progress import Step


@dataclass(frozen=True)
class Status:
    """What a collection holds.

    reranks: whether its model has a scorer. dead: stored rows and failures that no longer count. removed: how
    many of these belong to files that have gone; they can be revived. excludes, passed_over: see `Manifest`.
    incomplete: images of which a part is missing. bytes: on disk. committed: local time of the commit in force. ann:
    the ANN index, None without one. ann_fault: why it cannot be read, so that search is exact. fault: what is wrong
    with CURRENT. set_aside: bytes of damaged files that a repair moved away."""

    path: Path
    model: str
    fingerprint: str
    reranks: bool
    images: int
    failures: int
    folders: tuple[str, ...]
    segments: int
    dead: int
    removed: int
    incomplete: int
    excludes: tuple[str, ...]
    passed_over: Mapping[str, int]
    bytes: int
    committed: datetime
    ann: AnnEntry | None
    ann_fault: str | None
    fault: str | None
    set_aside: int


def status(path: Path) -> Status:
    """Raises `CrosslookError` if there is no collection, or a damaged one."""
    import pyarrow.compute as pc  # heavy; other commands do without it

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
        dead=dead_entries(manifest),
        removed=sum(entry.removed for entry in manifest.segments),
        incomplete=int(pc.sum(pc.not_equal(collection.table(["note"])["note"], "")).as_py() or 0),
        excludes=manifest.excludes,
        passed_over=totals(manifest.passed_over.values()),
        bytes=_bytes_in(path),
        committed=datetime.fromtimestamp(manifest.committed),
        ann=manifest.ann,
        ann_fault=collection.ann_fault,
        fault=collection.fault,
        set_aside=_bytes_in(path / SET_ASIDE),
    )


def dead_entries(manifest: Manifest) -> int:
    """How many stored rows and failures no longer count."""
    return len(manifest.tombstones) + sum(entry.dead for entry in manifest.segments)


def failures(path: Path) -> list[tuple[str, str]]:
    """The files that could not be decoded, with the reasons."""
    table = Collection.open(path).failures()
    return [(os.fsdecode(row["path"]), row["error"]) for row in table.select(["path", "error"]).to_pylist()]


def incomplete_images(path: Path) -> list[tuple[str, str]]:
    """The images of which a part is missing, with their notes."""
    table = Collection.open(path).table(["path", "note"])
    return [(os.fsdecode(row["path"]), row["note"]) for row in table.to_pylist() if row["note"]]


def remove_folder(path: Path, folder: str | Path, note: Callable[[str], None] = lambda line: None) -> int:
    """Removes a folder, or one image, from a collection; returns the number of images. The files stay untouched. note:
    called with what had to be mended first.

    Until `optimize`, removed rows can be revived by their content. Raises `CrosslookError` when the collection holds
    nothing of the folder."""
    target = spellings(folder)
    with _open_writer(path, note) as writer:
        collection = writer.collection
        gone, forgotten = (
            _ids_in(table, target) for table in (collection.table(["id", "path"]), collection.failures())
        )
        manifest = writer.manifest
        folders, mounts = (
            tuple(name for name in names if not is_in_folder(os.fsencode(name), target))
            for names in (manifest.folders, manifest.mounts)
        )
        counts = {name: count for name, count in manifest.passed_over.items() if name in folders}
        devices = {
            name: history for name, history in manifest.devices.items() if not is_in_folder(os.fsencode(name), target)
        }
        if not gone and not forgotten and folders == manifest.folders:
            raise CrosslookError(f"nothing in {folder} is in the collection {path}")
        writer.commit(removed=[*gone, *forgotten], folders=folders, mounts=mounts, passed_over=counts, devices=devices)
        writer.merge()
    return len(gone)


@dataclass(frozen=True)
class Optimized:
    """before, after: numbers of segments. dropped: number of dead entries that are gone. ann: the ANN index in force.
    new_ann: whether it changed."""

    before: int
    after: int
    dropped: int
    ann: AnnEntry | None
    new_ann: bool


def optimize(
    path: Path,
    recall_target: float | None = None,
    step: Callable[[Step], None] = lambda step: None,
    note: Callable[[str], None] = lambda line: None,
    device: str = "cpu",
) -> Optimized:
    """Merges all segments, drops dead rows, and brings the ANN index up to date, which large collections have.

    recall_target: the share of a text's exact ten nearest that ANN search is to find, 0 to 1; by default that of the
    present index, or 0.95. step: called with progress. note: called with what had to be mended first,
    and where an ANN index of a later version is replaced. device: for making the ANN index, see `update_ann`.

    Raises `CrosslookError` if the collection is in use or damaged, its model cannot be loaded, or there is no such
    device."""
    # Imported here: every `search index` imports this module, and few make an ANN index.
    from indexes.on_device.choosing import find_backend
    from retrieval.indexing.ann_upkeep import update_ann

    if recall_target is not None and not 0 < recall_target <= 1:
        raise CrosslookError(f"recall is a share, above 0 and up to 1, not {recall_target:g}")
    if device != "auto":
        find_backend(device)  # before anything is written
    with _open_writer(path, note) as writer:
        old = writer.manifest
        writer.merge(everything=True)
        new_ann = update_ann(writer, recall_target, step, note, device)
        new = writer.manifest
        dropped = dead_entries(old) - dead_entries(new)
        return Optimized(len(old.segments), len(new.segments), dropped, new.ann, new_ann)


def wants_optimizing(path: Path) -> bool:
    """Whether a query compares so many rows that an ANN index would save time."""
    return Collection.open(path).uncovered >= FEWEST_ROWS


def model_of(path: Path) -> str | None:
    """The name of the model that a collection is bound to; None if there is no collection yet."""
    binding = current_binding(path)
    return None if binding is None else binding.model


def _open_writer(path: Path, note: Callable[[str], None]) -> CollectionWriter:
    writer = CollectionWriter(path, Collection.open(path).binding)
    for line in writer.notes:
        note(line)
    return writer


def _ids_in(table: pa.Table, folders: Sequence[bytes]) -> list[int]:
    """The ids of the rows whose path lies in one of the folders, or is one of them."""
    inside = np.zeros(len(table), np.bool_)
    for folder in folders:
        inside |= are_in_folder(table["path"], folder)
    return list(table["id"].to_numpy()[inside].tolist())


def _bytes_in(folder: Path) -> int:
    """The size of all files in a folder, in bytes. A writer may remove files meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total
