"""Read every file of a collection and compare it with what the manifest says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexes.checksums import file_checksum
from indexes.collection import Collection, ann_folder, missing_file, open_segments, segment_folder
from indexes.commits import CURRENT, find_commit
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.manifest import Binding, Manifest, PartEntry, SegmentEntry
from indexes.segment import Segment

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Verification:
    """files, bytes: how much was read. faults: one line for each. unchecked: files without a checksum, which a version
    before checksums wrote; only their form was checked."""

    files: int
    bytes: int
    faults: tuple[str, ...]
    unchecked: int


def verify(folder: Path, progress: Progress = lambda done, total: None) -> Verification:
    """Read everything and say what is wrong. progress: told how many segments are done, and of how many.

    Raises `CrosslookError` where there is no collection, none of its manifests is whole, or a file cannot be read
    now."""
    commit = find_commit(folder)
    if commit is None:
        raise CrosslookError(f"no collection at {folder}: make one with `search index FOLDER`")
    manifest = commit.manifest
    faults = [] if commit.fault is None else [commit.fault]
    files, count, unchecked = 2, sum((folder / name).stat().st_size for name in (CURRENT, manifest.file_name)), 0
    for done, entry in enumerate(manifest.segments):
        progress(done, len(manifest.segments))
        place = segment_folder(folder, entry.number)
        for part in entry.parts.values():
            files, count = files + 1, count + _size(place / part.file)
            unchecked += part.checksum is None
        faults += segment_faults(place, entry, manifest.binding)
    if manifest.ann is not None:
        ann, path = manifest.ann, ann_folder(folder) / manifest.ann.file_name
        files, count = files + 1, count + _size(path)
        unchecked += ann.checksum is None
        part = PartEntry(path.name, bytes=ann.bytes, checksum=ann.checksum)
        faults += [f"{fault}: make it anew with `search optimize`" for fault in _part_faults(path.parent, part)]
    if not faults:
        faults += _contradictions(folder, manifest)
    progress(len(manifest.segments), len(manifest.segments))
    return Verification(files, count, tuple(faults), unchecked)


def segment_faults(folder: Path, entry: SegmentEntry, binding: Binding) -> list[str]:
    """What is wrong with one segment, one line for each fault."""
    faults = [fault for part in entry.parts.values() for fault in _part_faults(folder, part)]
    if faults:
        return faults
    try:
        segment = Segment(folder, entry, binding)
        ids = [segment.table()["id"].to_numpy(), segment.failures()["id"].to_numpy()]
        if any((np.diff(column) <= 0).any() for column in ids):
            raise DamagedSegmentError(folder, "ids", "they do not ascend")
        if len(segment.deletions) != entry.dead:
            raise DamagedSegmentError(folder, "deletions", f"{len(segment.deletions)} entries, expected {entry.dead}")
    except DamagedSegmentError as error:
        return [str(error)]
    except FileNotFoundError as error:
        return [str(missing_file(folder, error))]
    return []


def check_parts(folder: Path, entry: SegmentEntry) -> None:
    """Compare the files of a segment with their checksums. Raises `DamagedSegmentError`, `FileNotFoundError`, and
    `OSError` of a file that cannot be read now."""
    for part in entry.parts.values():
        fault = _part_fault(folder, part)
        if fault is not None:
            raise DamagedSegmentError(folder, part.file, fault)


def summed_part(folder: Path, part: PartEntry) -> PartEntry:
    """A part with the bytes and the checksum that its file has now. Raises `OSError`."""
    count, checksum = file_checksum(folder / part.file)
    return PartEntry(part.file, part.format, count, checksum, part.extra)


def _part_faults(folder: Path, part: PartEntry) -> Iterator[str]:
    try:
        fault = _part_fault(folder, part)
    except FileNotFoundError:
        fault = "it is missing"
    except OSError as error:
        raise CrosslookError(f"cannot read {folder / part.file}: {error.strerror}") from error
    if fault is not None:
        yield f"{folder / part.file}: {fault}"


def _part_fault(folder: Path, part: PartEntry) -> str | None:
    count, checksum = file_checksum(folder / part.file)
    if part.bytes is not None and count != part.bytes:
        return f"it has {count:,} bytes, expected {part.bytes:,}"
    if part.checksum is not None and checksum != part.checksum:
        return "its checksum is wrong"
    return None


def _contradictions(folder: Path, manifest: Manifest) -> list[str]:
    """What no single file shows: ids given twice, or not given yet, and paths that count twice."""
    collection = Collection(folder, manifest, open_segments(folder, manifest))
    ids = np.concatenate([np.zeros(0, np.int64), *(segment.ids for segment in collection.segments)])
    paths = collection.table(["path"])["path"]
    faults = []
    if len(np.unique(ids)) != len(ids):
        faults.append("some ids are given twice")
    if len(ids) and ids.max() >= manifest.next_id:
        faults.append(f"the id {ids.max()} is in use, though the manifest says that {manifest.next_id} comes next")
    if len(paths) != len(paths.unique()):
        faults.append(f"{len(paths) - len(paths.unique()):,} paths count more than once")
    return faults


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
