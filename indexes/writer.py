"""The one writer of a collection: segments in, commits out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.checksums import file_checksum
from indexes.collection import (
    FILES_A_SEGMENT,
    OTHER_FILES,
    Collection,
    ann_folder,
    missing_file,
    open_segments,
    segment_folder,
)
from indexes.commits import put_in_force
from indexes.deletions import write_deletions
from indexes.errors import CrosslookError
from indexes.files import discard, reading_from, sync_file, sync_folder, writing_to
from indexes.leftovers import refuse_foreign, remove_leftovers
from indexes.manifest import AnnEntry, Binding, Manifest, SegmentEntry
from indexes.merging import merged_batch, segments_to_merge
from indexes.open_files import admit_files
from indexes.opening import Opening
from indexes.recovery import ids_outside, repeated_ids
from indexes.segment import Segment
from indexes.segment_files import Batch, with_deletions, write_segment
from indexes.verification import check_parts
from indexes.writer_lock import WriterLock


class CollectionWriter:
    """Holds the collection's lock from opening to closing. Use as a context manager.

    `commit` is the only place that changes what readers see. A crash at any point leaves the commit before in force,
    and files that nothing names, which the next writer removes.

    dropped: rows that were lost with damaged segments. notes: what was found and mended on opening, a line each."""

    def __init__(self, folder: Path, binding: Binding, repair: bool = False) -> None:
        """Open the collection for writing; where there is none, the first commit makes it.

        repair: rebuild a lost manifest, check every file, and set damaged segments aside instead of refusing them.
        Raises `CrosslookError` when another writer is at work, the collection is damaged or bound to another model, or
        `folder` holds something else."""
        self.folder = folder
        self._failed = False
        with writing_to(folder):
            refuse_foreign(folder)
            if not folder.is_dir():
                folder.mkdir(parents=True)
                sync_folder(folder.parent)
            (folder / "segments").mkdir(exist_ok=True)
            self._lock = WriterLock(folder)
        try:
            with reading_from(folder):
                self._open(binding, repair)
        except BaseException:
            self.close()
            raise

    def _open(self, binding: Binding, repair: bool) -> None:
        opening = Opening(self.folder)
        manifest = opening.manifest(binding, repair)
        self.dropped, self.notes = opening.dropped, tuple(opening.notes)
        try:
            self.collection = Collection(self.folder, manifest, open_segments(self.folder, manifest))
        except FileNotFoundError as error:
            raise missing_file(self.folder, error) from error
        self.collection.check(binding.model, binding.fingerprint)
        remove_leftovers(self.folder, manifest)
        if repair:
            outside = ids_outside(self.collection, opening.lost_deletions)
            repeated = repeated_ids(self.collection)
            if outside or repeated:
                self.commit(dead=repeated, removed=outside)

    @property
    def manifest(self) -> Manifest:
        return self.collection.manifest

    def commit(
        self,
        batch: Batch | None = None,
        *,
        dead: Iterable[int] = (),
        removed: Iterable[int] = (),
        revived: Iterable[int] = (),
        **settings: Any,
    ) -> Manifest:
        """Add a batch as a segment and mark ids as dead, in one step. The ids of the batch must come from `next_id`.

        dead: of rows and failures whose content is in something newer. removed: of rows whose content may come back,
        and which are kept for that until `optimize`. revived: of dead rows whose content came back, in a newer row.
        settings: fields of the manifest that change, such as `folders`.

        Raises `CrosslookError` when it cannot be written; the commit before stays in force, and this writer is done."""
        manifest = self.manifest
        last_id = manifest.next_id - 1
        with self._writing():
            segments = self._with_dead(list(dead), list(removed), np.array(sorted(set(revived)), np.int64))
            if batch is not None:
                entry = write_segment(segment_folder(self.folder, manifest.next_segment), batch, manifest)
                segments.append(entry)
                last_id = max([last_id, *batch.rows["id"].to_pylist(), *batch.failures["id"].to_pylist()])
            return self._put_in_force(
                manifest.next(
                    segments=tuple(segments),
                    next_segment=manifest.next_segment + (batch is not None),
                    next_id=last_id + 1,
                    tombstones=(),
                    **settings,
                )
            )

    def _with_dead(self, dead: Sequence[int], removed: Sequence[int], revived: NDArray[np.int64]) -> list[SegmentEntry]:
        """The entries of all segments, after deletion vectors were written where more is dead now."""
        kinds = [(np.array(sorted({*dead, *self.manifest.tombstones}), np.int64), False)]
        kinds.append((np.array(sorted(set(removed)), np.int64), True))
        entries = []
        for segment in self.collection.segments:
            deletions = segment.deletions.without_reason(segment.places(revived))
            for ids, is_removed in kinds:
                places = segment.places(ids)
                deletions = deletions.with_more(places, is_removed & (places < len(segment)))
            before = segment.deletions
            if len(deletions) == len(before) and deletions.removed.sum() == before.removed.sum():
                entries.append(segment.entry)
                continue
            part = write_deletions(segment.folder, deletions, self.manifest.generation + 1)
            entries.append(with_deletions(segment.entry, deletions, part))
        return entries

    def merge(self, everything: bool = False) -> int:
        """Merge small segments into larger ones and leave what was replaced behind; with `everything`, merge all of
        them, and drop what was removed too. Returns how many segments there are fewer.

        Raises `CrosslookError` where a segment is damaged: nothing is merged then with wrong content."""
        before = len(self.manifest.segments)
        self._bring_up_to_date()
        for group in segments_to_merge(self.manifest.segments, everything):
            self._merge_group([entry.number for entry in group], everything)
        return before - len(self.manifest.segments)

    def _bring_up_to_date(self) -> None:
        """Merging knows deletion vectors only."""
        if self.manifest.tombstones:
            self.commit()

    def _merge_group(self, numbers: Sequence[int], everything: bool) -> None:
        manifest = self.manifest
        old = [segment for segment in self.collection.segments if segment.entry.number in numbers]
        for segment in old:
            with reading_from(segment.folder):
                check_parts(segment.folder, segment.entry)
        batch = merged_batch(old, everything)
        at = min(index for index, entry in enumerate(manifest.segments) if entry.number in numbers)
        segments = [entry for entry in manifest.segments if entry.number not in numbers]
        with self._writing():
            if len(batch.rows) or len(batch.failures):
                entry = write_segment(segment_folder(self.folder, manifest.next_segment), batch, manifest)
                segments.insert(at, entry)
            self._put_in_force(manifest.next(segments=tuple(segments), next_segment=manifest.next_segment + 1))
        remove_leftovers(self.folder, self.manifest)

    def put_ann(self, make: Callable[[Path], AnnEntry]) -> AnnEntry:
        """Write an ANN index and put it in force. make: writes it to the path that it is given, and describes it."""
        manifest, folder = self.manifest, ann_folder(self.folder)
        with self._writing():
            folder.mkdir(exist_ok=True)
            sync_folder(self.folder)
            path = folder / AnnEntry(number=manifest.next_ann).file_name
            try:
                entry = replace(make(path), number=manifest.next_ann, checksum=file_checksum(path)[1])
                with path.open("rb+") as file:
                    sync_file(file.fileno())
            except BaseException:
                path.unlink(missing_ok=True)  # on a full disk, half an index would keep it full
                raise
            sync_folder(folder)
            self._put_in_force(manifest.next(ann=entry, next_ann=manifest.next_ann + 1))
        remove_leftovers(self.folder, self.manifest)
        return entry

    def drop_ann(self) -> None:
        """Take the ANN index out of force: then all rows are compared."""
        with self._writing():
            self._put_in_force(self.manifest.next(ann=None))
        remove_leftovers(self.folder, self.manifest)

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
        put_in_force(self.folder, manifest)
        admit_files(FILES_A_SEGMENT * len(manifest.segments) + OTHER_FILES)
        known = {segment.entry.number: segment for segment in self.collection.segments}
        segments = [
            known[entry.number].with_entry(entry)
            if entry.number in known
            else Segment(segment_folder(self.folder, entry.number), entry, manifest.binding)
            for entry in manifest.segments
        ]
        previous, self.collection = self.manifest, Collection(self.folder, manifest, segments)
        if previous.file_name != manifest.file_name:
            discard(self.folder / previous.file_name)
        return manifest

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> CollectionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
