"""The one writer of a collection: segments in, commits out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from indexes.adoption import adoptable, placed
from indexes.checksums import file_checksum
from indexes.collection import Collection
from indexes.commits import put_in_force
from indexes.deletions import write_deletions
from indexes.errors import CrosslookError, missing_file
from indexes.files import discard, reading_from, sync_file, sync_folder, writing_to
from indexes.leftovers import refuse_foreign, remove_leftovers
from indexes.manifest import AnnEntry, Binding, Manifest, SegmentEntry
from indexes.merging import merged_batch, segments_to_merge
from indexes.numbering import RowId, RowIds, SegmentNumber
from indexes.opening import Opening
from indexes.paths import ann_folder, segment_folder, segments_folder
from indexes.recovery import ids_outside, repeated_ids
from indexes.segment import Segment, admit_segments, open_segments
from indexes.segment_files import Batch, Reservation, with_deletions, write_own_segment
from indexes.verification import check_parts
from indexes.writer_lock import WriterLock


class CollectionWriter:
    """Holds the collection's lock from opening to closing. Use as a context manager.

    Only this class changes what readers see. A crash at any point leaves the commit before in force, and files that
    nothing names, which the next writer removes.

    Segments come in two ways. `commit` writes one and publishes it. Or other processes write them: `reserve` gives each
    the right to one segment, `write_segment` writes it, and `adopt` publishes any number of them in one commit.

    dropped: rows that were lost with damaged segments. notes: what was mended on opening, a line each."""

    def __init__(self, folder: Path, binding: Binding, repair: bool = False) -> None:
        """Open the collection for writing; where there is none, the first commit makes it.

        repair: rebuild a lost manifest, check every file, and set damaged segments aside instead of refusing them.
        Raises `CrosslookError` when another writer is at work, the collection is damaged or bound to another model, or
        `folder` holds something else."""
        self.folder = folder
        self._failed = False
        self._reserved: dict[SegmentNumber, Reservation] = {}
        with writing_to(folder):
            refuse_foreign(folder)
            if not folder.is_dir():
                folder.mkdir(parents=True)
                sync_folder(folder.parent)
            segments_folder(folder).mkdir(exist_ok=True)
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
        self._next_id, self._next_segment = manifest.next_id, manifest.next_segment
        remove_leftovers(self.folder, manifest)
        if repair:
            outside = ids_outside(self.collection, opening.lost_deletions)
            repeated = repeated_ids(self.collection)
            if outside or repeated:
                self.commit(dead=repeated, removed=outside)

    @property
    def manifest(self) -> Manifest:
        """The commit in force."""
        return self.collection.manifest

    @property
    def next_id(self) -> RowId:
        """The first id that is neither given nor reserved."""
        return self._next_id

    def commit(
        self,
        batch: Batch | None = None,
        *,
        dead: Iterable[RowId] = (),
        removed: Iterable[RowId] = (),
        revived: Iterable[RowId] = (),
        **settings: Any,
    ) -> Manifest:
        """Add a batch as a segment and mark ids as dead, in one step. The ids of the batch start at `next_id` or later.

        dead: of rows and failures whose content is in something newer. removed: of rows whose content may come back;
        they are kept for that until `optimize`. revived: of dead rows whose content came back, in a newer row.
        settings: fields of the manifest that change, such as `folders`.

        Raises `CrosslookError` when it cannot be written; the commit before stays in force, and this writer is done."""
        reservation = None if batch is None else self._reserve_for(batch)
        with self._writing():
            entries = self._with_dead(dead, removed, revived)
            if batch is not None and reservation is not None:
                entries.append(write_own_segment(self.folder, batch, reservation))
                self.release(reservation)
            return self._publish(entries, settings)

    def reserve(self, count: int) -> Reservation:
        """Reserve a segment and `count` ids for its rows and failures. Another process can write the segment with
        `write_segment`, once, until this writer is closed; to try again, release this reservation and reserve anew.

        Nothing is written: a reservation that is never adopted costs its ids. What was written for it is removed by the
        next writer, or by this one after `release`; but a rebuild of a lost manifest takes over all segments that are
        complete, since it cannot tell which of them were adopted. While there are reservations, this writer neither
        merges nor makes an ANN index: both rely on all smaller ids being given."""
        if count < 0:
            raise ValueError(f"cannot reserve {count} ids")
        reservation = Reservation(self._next_segment, self._next_id, count, self.manifest)
        self._next_segment += 1
        self._next_id += count
        self._reserved[reservation.number] = reservation
        return reservation

    def release(self, reservation: Reservation) -> None:
        """Give up a reservation, whose segment must not be written any more."""
        self._reserved.pop(reservation.number, None)

    def adopt(
        self,
        segments: Sequence[SegmentEntry],
        *,
        dead: Iterable[RowId] = (),
        removed: Iterable[RowId] = (),
        revived: Iterable[RowId] = (),
        **settings: Any,
    ) -> Manifest:
        """Publish segments that were written for reservations of this writer, and mark ids as dead, in one step.
        segments: what `write_segment` returned. The other arguments are those of `commit`.

        Each segment is opened. Its number, binding and ids must be those reserved; the sizes of its files, and the
        checksums that were noted when they were written, those of the entry. Its rows are read; embeddings and regions
        are not. Raises `ValueError` if nothing was reserved for a segment, or its ids are others, and
        `DamagedSegmentError` if its files are not those of the entry; then nothing has changed. Else raises as
        `commit` does."""
        if len({entry.number for entry in segments}) != len(segments):
            raise ValueError("a segment is named twice")
        admit_segments(len(self.manifest.segments) + len(segments))
        opened = [adoptable(self.folder, entry, self._reserved.get(entry.number)) for entry in segments]
        with self._writing():
            entries = placed(self._with_dead(dead, removed, revived), self.collection.segments, opened)
            for segment in opened:
                self.release(self._reserved[segment.entry.number])
            return self._publish(entries, settings, opened)

    def _reserve_for(self, batch: Batch) -> Reservation:
        """For the ids that a batch has already."""
        ids = [*batch.rows["id"].to_pylist(), *batch.failures["id"].to_pylist()]
        if self._reserved and ids and min(ids) < self._next_id:
            raise ValueError(f"the id {min(ids)} is reserved, or was given before: {self._next_id} comes next")
        return self.reserve(max([0, *(row_id + 1 - self._next_id for row_id in ids)]))

    def _publish(
        self, entries: Sequence[SegmentEntry], settings: dict[str, Any], opened: Sequence[Segment] = ()
    ) -> Manifest:
        counters = {"next_segment": self._next_segment, "next_id": self._next_id}
        manifest = self.manifest.next(segments=tuple(entries), tombstones=(), **counters, **settings)
        return self._put_in_force(manifest, opened)

    def _with_dead(
        self, dead: Iterable[RowId], removed: Iterable[RowId], revived: Iterable[RowId]
    ) -> list[SegmentEntry]:
        """The entries of all segments. Writes a deletion vector where more is dead now."""
        kinds = [(_ascending([*dead, *self.manifest.tombstones]), False), (_ascending(removed), True)]
        revived_ids = _ascending(revived)
        entries = []
        for segment in self.collection.segments:
            deletions = segment.deletions.without_reason(segment.entry_offsets(revived_ids))
            for ids, is_removed in kinds:
                offsets = segment.entry_offsets(ids)
                deletions = deletions.with_more(offsets, is_removed & (offsets < len(segment)))
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

        Raises `CrosslookError` if a segment is damaged, which is not merged then."""
        self._refuse_while_reserved()
        before = len(self.manifest.segments)
        if self.manifest.tombstones:  # merging knows deletion vectors only
            self.commit()
        for group in segments_to_merge(self.manifest.segments, everything):
            self._merge_group([entry.number for entry in group], everything)
        return before - len(self.manifest.segments)

    def _merge_group(self, numbers: Sequence[SegmentNumber], everything: bool) -> None:
        segments = [segment for segment in self.collection.segments if segment.entry.number in numbers]
        for segment in segments:
            with reading_from(segment.folder):
                check_parts(segment.folder, segment.entry)
        batch = merged_batch(segments, everything)
        before = self.manifest.segments
        at = min(index for index, entry in enumerate(before) if entry.number in numbers)
        entries = [entry for entry in before if entry.number not in numbers]
        with self._writing():
            reservation = self.reserve(0)  # the ids are given already
            if len(batch.rows) or len(batch.failures):
                entries.insert(at, write_own_segment(self.folder, batch, reservation))
            self.release(reservation)
            self._put_in_force(self.manifest.next(segments=tuple(entries), next_segment=self._next_segment))
        remove_leftovers(self.folder, self.manifest)

    def put_ann(self, make: Callable[[Path], AnnEntry]) -> AnnEntry:
        """Write an ANN index and put it in force. make: writes the file at the given path and describes it."""
        self._refuse_while_reserved()
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
        remove_leftovers(self.folder, self.manifest, self._reserved)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """After a failure, what is on disk may be ahead of what this writer knows: it must not write again."""
        if self._failed:
            raise CrosslookError(f"an earlier write to {self.folder} failed: run again")
        self._failed = True
        with writing_to(self.folder):
            yield
        self._failed = False

    def _refuse_while_reserved(self) -> None:
        if self._reserved:
            raise ValueError(f"{len(self._reserved)} reserved segments must be adopted or released first")

    def _put_in_force(self, manifest: Manifest, opened: Sequence[Segment] = ()) -> Manifest:
        """opened: segments that are new in this commit and open already."""
        put_in_force(self.folder, manifest)
        admit_segments(len(manifest.segments))
        known = {segment.entry.number: segment for segment in (*self.collection.segments, *opened)}
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
        """Release the lock. Commits are safe on disk already."""
        self._lock.release()

    def __enter__(self) -> CollectionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ascending(ids: Iterable[RowId]) -> RowIds:
    return np.array(sorted(set(ids)), np.int64)
