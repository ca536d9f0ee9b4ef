"""The one writer of a collection: segments in, commits out."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from indexes.collection import Collection, ann_folder, missing_file, open_segments, segment_folder
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.files import replace_durably, sync_folder, writing_to
from indexes.manifest import (
    CURRENT,
    MANIFEST_NAME,
    AnnEntry,
    Binding,
    Manifest,
    SegmentEntry,
    current_manifest,
    orphaned_manifest,
    read_manifest,
    write_manifest,
)
from indexes.merging import segments_to_merge
from indexes.row_file import RowFile
from indexes.segment import FAILURE_SCHEMA, ROW_SCHEMA, SEGMENT_FILES, Batch, Segment, write_segment

LOCK = "writer.lock"
HOLDER = "writer.json"
COPIED_ROWS = 1024
OURS = (LOCK, HOLDER, "segments", "ann", "CURRENT.new")
ANN_NAME = re.compile(r"\d{6,}\.faiss")
SEGMENT_NAME = re.compile(r"\d{6,}")


class CollectionWriter:
    """Holds the collection's lock from opening to closing. Use as a context manager.

    `commit` is the only place that changes what readers see. A crash at any point leaves the commit before in force,
    and files that nothing names, which the next writer removes."""

    def __init__(self, folder: Path, binding: Binding, repair: bool = False) -> None:
        """Open the collection for writing; where there is none, the first commit makes it.

        repair: drop segments that are damaged instead of refusing them; `dropped` counts their rows. Raises
        `CrosslookError` when another writer is at work, the collection is damaged or bound to another model, or
        `folder` holds something else."""
        self.folder = folder
        self.dropped = 0
        self._failed = False
        with writing_to(folder):
            _refuse_foreign(folder)
            if not folder.is_dir():
                folder.mkdir(parents=True)
                sync_folder(folder.parent)
            (folder / "segments").mkdir(exist_ok=True)
            self._lock = _lock(folder)
        try:
            self._open(binding, repair)
        except BaseException:
            self.close()
            raise

    def _open(self, binding: Binding, repair: bool) -> None:
        name = current_manifest(self.folder)
        try:
            if name is None and (name := orphaned_manifest(self.folder)) is not None:
                with writing_to(self.folder):
                    replace_durably(self.folder / CURRENT, name.encode() + b"\n")
            manifest = read_manifest(self.folder, name) if name else Manifest(binding)
            if name and repair:
                manifest = self._without_damaged(manifest)
            self.collection = Collection(self.folder, manifest, open_segments(self.folder, manifest))
        except FileNotFoundError as error:
            raise missing_file(self.folder, name or "", error) from error
        self.collection.check(binding.model, binding.fingerprint)
        self._remove_unreferenced()

    @property
    def manifest(self) -> Manifest:
        return self.collection.manifest

    def commit(
        self, batch: Batch | None = None, *, dead: Iterable[int] = (), folders: Sequence[str] | None = None
    ) -> Manifest:
        """Add a batch as a segment and mark ids as dead, in one step. The ids of the batch must come from `next_id`.

        Raises `CrosslookError` when it cannot be written; the commit before stays in force, and this writer is done."""
        manifest = self.manifest
        segments, last_id = manifest.segments, manifest.next_id - 1
        with self._writing():
            if batch is not None:
                entry = SegmentEntry(manifest.next_segment, len(batch.rows), len(batch.failures))
                write_segment(segment_folder(self.folder, entry.number), batch, manifest.binding)
                segments = (*segments, entry)
                last_id = max([last_id, *batch.rows["id"].to_pylist(), *batch.failures["id"].to_pylist()])
            return self._put_in_force(
                manifest.next(
                    segments=segments,
                    next_segment=manifest.next_segment + (batch is not None),
                    next_id=last_id + 1,
                    tombstones=tuple(sorted({*manifest.tombstones, *dead})),
                    folders=manifest.folders if folders is None else tuple(folders),
                )
            )

    def merge(self, everything: bool = False) -> int:
        """Merge small segments into larger ones and leave what is dead behind; with `everything`, all of them. Returns
        how many segments there are fewer."""
        before = len(self.manifest.segments)
        gone = np.asarray(self.manifest.tombstones, dtype=np.int64)
        dead = [_count_dead(segment, gone) for segment in self.collection.segments]
        for group in segments_to_merge(self.manifest.segments, dead, everything):
            self._merge_group([entry.number for entry in group])
        return before - len(self.manifest.segments)

    def _merge_group(self, numbers: Sequence[int]) -> None:
        manifest = self.manifest
        old = [segment for segment in self.collection.segments if segment.entry.number in numbers]
        batch, dead = _living(old, manifest.tombstones)
        merged = SegmentEntry(manifest.next_segment, len(batch.rows), len(batch.failures))
        at = min(index for index, entry in enumerate(manifest.segments) if entry.number in numbers)
        segments = [entry for entry in manifest.segments if entry.number not in numbers]
        with self._writing():
            if merged.rows or merged.failures:
                write_segment(segment_folder(self.folder, merged.number), batch, manifest.binding)
                segments.insert(at, merged)
            self._put_in_force(
                manifest.next(
                    segments=tuple(segments),
                    next_segment=manifest.next_segment + 1,
                    tombstones=tuple(sorted(set(manifest.tombstones) - dead)),
                )
            )
        self._remove_unreferenced()

    def put_ann(self, make: Callable[[Path], AnnEntry]) -> AnnEntry:
        """Write an ANN index and put it in force. make: writes it to the path that it is given, and describes it."""
        manifest, folder = self.manifest, ann_folder(self.folder)
        with self._writing():
            folder.mkdir(exist_ok=True)
            sync_folder(self.folder)
            path = folder / AnnEntry(number=manifest.next_ann).file_name
            try:
                entry = replace(make(path), number=manifest.next_ann)
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            except BaseException:
                path.unlink(missing_ok=True)  # on a full disk, half an index would keep it full
                raise
            sync_folder(folder)
            self._put_in_force(manifest.next(ann=entry, next_ann=manifest.next_ann + 1))
        self._remove_unreferenced()
        return entry

    def drop_ann(self) -> None:
        """Take the ANN index out of force: then all rows are compared."""
        with self._writing():
            self._put_in_force(self.manifest.next(ann=None))
        self._remove_unreferenced()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """After a failure, what is on disk may be ahead of what this writer knows: it must not write again."""
        if self._failed:
            raise CrosslookError(f"an earlier write to {self.folder} failed: run again")
        self._failed = True
        with writing_to(self.folder):
            yield
        self._failed = False

    def _put_in_force(self, manifest: Manifest) -> Manifest:
        write_manifest(self.folder, manifest)
        known = {segment.entry.number: segment for segment in self.collection.segments}
        segments = [
            known[entry.number]
            if entry.number in known
            else Segment(segment_folder(self.folder, entry.number), entry, manifest.binding)
            for entry in manifest.segments
        ]
        previous, self.collection = self.manifest, Collection(self.folder, manifest, segments)
        (self.folder / previous.file_name).unlink(missing_ok=True)
        return manifest

    def _without_damaged(self, manifest: Manifest) -> Manifest:
        kept = []
        for entry in manifest.segments:
            try:
                segment = Segment(segment_folder(self.folder, entry.number), entry, manifest.binding)
                segment.table()
                segment.failures()
                kept.append(entry)
            except (DamagedSegmentError, FileNotFoundError):
                self.dropped += entry.rows
        if len(kept) == len(manifest.segments):
            return manifest
        repaired = manifest.next(segments=tuple(kept))
        with writing_to(self.folder):
            write_manifest(self.folder, repaired)
        return repaired

    def _remove_unreferenced(self) -> None:
        """Remove what a crash, a merge or an earlier commit left behind."""
        named = {segment_folder(self.folder, entry.number).name for entry in self.manifest.segments}
        for folder in (self.folder / "segments").iterdir():
            if SEGMENT_NAME.fullmatch(folder.name) and folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)
        in_force = current_manifest(self.folder)
        for path in self.folder.iterdir():
            if MANIFEST_NAME.fullmatch(path.name) and path.name != in_force:
                path.unlink(missing_ok=True)
        ann = self.manifest.ann
        for path in ann_folder(self.folder).glob("*.faiss"):
            if ANN_NAME.fullmatch(path.name) and (ann is None or path.name != ann.file_name):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        (self.folder / HOLDER).unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> CollectionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _count_dead(segment: Segment, tombstones: NDArray[np.int64]) -> int:
    if not len(tombstones):
        return 0
    return int(np.isin(segment.ids, tombstones).sum() + np.isin(segment.failures()["id"].to_numpy(), tombstones).sum())


def _living(segments: Sequence[Segment], tombstones: Sequence[int]) -> tuple[Batch, set[int]]:
    """The rows and failures of these segments that count, and the ids of those that do not."""
    gone = np.asarray(tombstones, dtype=np.int64)
    alive = [~np.isin(segment.ids, gone) for segment in segments]
    failed = [segment.failures() for segment in segments]
    rows = [segment.table().filter(pa.array(mask)) for segment, mask in zip(segments, alive, strict=True)]
    failures = [table.filter(pa.array(~np.isin(table["id"].to_numpy(), gone))) for table in failed]
    ids = [*(segment.ids for segment in segments), *(table["id"].to_numpy() for table in failed)]
    return Batch(
        pa.concat_tables([ROW_SCHEMA.empty_table(), *rows]).combine_chunks(),
        pa.concat_tables([FAILURE_SCHEMA.empty_table(), *failures]).combine_chunks(),
        _living_blocks([segment.embeddings for segment in segments], alive),
        _living_blocks([segment.tokens for segment in segments], alive),
    ), set(np.intersect1d(np.concatenate(ids), gone).tolist())


def _living_blocks(files: Sequence[RowFile], masks: Sequence[NDArray[np.bool_]]) -> Iterator[NDArray[Any]]:
    for file, mask in zip(files, masks, strict=True):
        low = 0
        for block in file.blocks(COPIED_ROWS):
            yield block[mask[low : low + len(block)]]
            low += len(block)


def _refuse_foreign(folder: Path) -> None:
    """A folder becomes a collection only if nothing in it is anybody else's."""
    if folder.exists() and not folder.is_dir():
        raise CrosslookError(f"{folder} is a file: --index names the collection's own folder")
    if not folder.is_dir() or current_manifest(folder) is not None:
        return
    segments = folder / "segments"
    foreign = [path for path in folder.iterdir() if path.name not in OURS and not MANIFEST_NAME.fullmatch(path.name)]
    if segments.is_dir():
        inside = list(segments.iterdir())
        foreign += [path for path in inside if not SEGMENT_NAME.fullmatch(path.name)]
        deeper = [path for each in inside if SEGMENT_NAME.fullmatch(each.name) for path in each.iterdir()]
        foreign += [path for path in deeper if path.name not in SEGMENT_FILES]
    if ann_folder(folder).is_dir():
        foreign += [path for path in ann_folder(folder).iterdir() if not ANN_NAME.fullmatch(path.name)]
    if foreign:
        raise CrosslookError(
            f"{folder} is not a collection and not empty (it holds {foreign[0].relative_to(folder)}): choose another "
            "--index"
        )


def _lock(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        process = holder(folder)
        by = f" by {process}" if process else ""
        raise CrosslookError(f"{folder} is being written to{by}: wait until it has finished") from error
    note = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
    try:
        (folder / HOLDER).write_text(json.dumps(note))
    except OSError:
        lock.release()
        raise
    return lock


def holder(folder: Path) -> str | None:
    """The process that writes to a collection now, for people; None where there is none. What a process left behind
    that was killed does not count; of one on another machine nobody can tell."""
    try:
        note = json.loads((folder / HOLDER).read_text())
        line, pid = f"process {note['pid']} on {note['host']} since {note['since']}", int(note["pid"])
        is_here = note["host"] == socket.gethostname()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if is_here and os.name != "nt":  # where os.kill would not ask
        try:
            os.kill(pid, 0)
        except PermissionError:
            return line
        except (OSError, OverflowError):
            return None
    return line
