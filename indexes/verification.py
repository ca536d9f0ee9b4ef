"""Read every file of a collection and compare it with its entry in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexes.checksums import file_checksum
from indexes.collection import Collection
from indexes.commits import CURRENT, Commit, current_name, find_commit
from indexes.errors import CrosslookError, DamagedSegmentError, missing_file
from indexes.manifest import Binding, Manifest, PartEntry, SegmentEntry
from indexes.paths import ann_folder, segment_folder
from indexes.segment import Segment, open_segments

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Verification:
    """files, bytes: how much was read. faults: one line each. unchecked: files without a checksum, of a version that
    wrote none; only their form was checked."""

    files: int
    bytes: int
    faults: tuple[str, ...]
    unchecked: int


def verify(folder: Path, progress: Progress = lambda done, total: None) -> Verification:
    """Read everything and list the faults. Works beside a writer: files that a commit replaces meanwhile are no fault.
    progress: called with the number of segments that are done, and of all.

    Raises `CrosslookError` if there is no collection, all of its manifests are damaged, or a file cannot be read
    now."""
    checked: dict[str, Verification] = {}
    while True:
        commit = find_commit(folder)
        if commit is None:
            raise CrosslookError(f"no collection at {folder}: make one with `search index FOLDER`")
        verification = _verified(folder, commit, checked, progress)
        is_in_force = current_name(folder) in (None, commit.manifest.file_name)
        if not verification.faults or is_in_force or commit.fault is not None:
            return verification


def _verified(folder: Path, commit: Commit, checked: dict[str, Verification], progress: Progress) -> Verification:
    """One commit. checked: results for segments without faults, of this commit or an earlier one; more are added."""
    manifest = commit.manifest
    names = sum(_size(folder / name) for name in (CURRENT, manifest.file_name))
    results = [Verification(2, names, () if commit.fault is None else (commit.fault,), 0)]
    for done, entry in enumerate(manifest.segments):
        progress(done, len(manifest.segments))
        path, key = segment_folder(folder, entry.number), repr(entry)
        if key not in checked:
            result = _counted(path, list(entry.parts.values()), segment_faults(path, entry, manifest.binding))
            checked |= {} if result.faults else {key: result}
            results.append(result)
        else:
            results.append(checked[key])
    if manifest.ann is not None:
        ann, path = manifest.ann, ann_folder(folder)
        part = PartEntry(ann.file_name, bytes=ann.bytes, checksum=ann.checksum)
        faults = [f"{fault}: make it anew with `search optimize`" for fault in _part_faults(path, part)]
        results.append(_counted(path, [part], faults))
    if not any(result.faults for result in results):
        results.append(Verification(0, 0, _contradictions(folder, manifest), 0))
    progress(len(manifest.segments), len(manifest.segments))
    return Verification(
        sum(result.files for result in results),
        sum(result.bytes for result in results),
        tuple(fault for result in results for fault in result.faults),
        sum(result.unchecked for result in results),
    )


def _counted(folder: Path, parts: Sequence[PartEntry], faults: Sequence[str]) -> Verification:
    sizes = sum(_size(folder / part.file) for part in parts)
    return Verification(len(parts), sizes, tuple(faults), sum(part.checksum is None for part in parts))


def segment_faults(folder: Path, entry: SegmentEntry, binding: Binding) -> list[str]:
    """The faults of one segment, one line each."""
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
    """Compare the files of a segment with their checksums. Raises `DamagedSegmentError`, and `OSError` where a file
    cannot be read now."""
    for part in entry.parts.values():
        try:
            fault = _part_fault(folder, part)
        except FileNotFoundError:
            fault = "it is missing"
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


def _contradictions(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """What no single file shows: ids that are given twice or not given yet, and paths that count twice."""
    try:
        collection = Collection(folder, manifest, open_segments(folder, manifest))
        ids = np.concatenate([np.zeros(0, np.int64), *(segment.ids for segment in collection.segments)])
        paths = collection.table(["path"])["path"]
    except FileNotFoundError as error:
        return (str(missing_file(folder, error)),)
    except DamagedSegmentError as error:
        return (str(error),)
    faults = []
    if len(np.unique(ids)) != len(ids):
        faults.append("some ids are given twice")
    if len(ids) and ids.max() >= manifest.next_id:
        faults.append(f"the id {ids.max()} is in use, though the manifest says that {manifest.next_id} comes next")
    if len(paths) != len(paths.unique()):
        faults.append(f"{len(paths) - len(paths.unique()):,} paths count more than once")
    return tuple(faults)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
