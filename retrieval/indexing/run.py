"""Writing: carries out a plan, in commits. Reading, encoding and writing overlap."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from indexes.collection import Collection
from indexes.errors import DamagedSegmentError
from indexes.rows import Row
from indexes.writer import CollectionWriter
from retrieval.encoders.base import Encoder
from retrieval.indexing.copying import Copies, copy_rows, positions_by_content
from retrieval.indexing.crew import Crew
from retrieval.indexing.encode_ahead import encode_batches
from retrieval.indexing.encoding import EncodedFiles
from retrieval.indexing.files import File
from retrieval.indexing.pending import Pending
from retrieval.indexing.photo_batches import photo_batches
from retrieval.indexing.plan import Encoding, Plan, Rename
from retrieval.indexing.read_ahead import Batch, batch_size_of, read_batches
from retrieval.indexing.reading import ImageReader, Reading
from retrieval.indexing.settings import FAST_COMMIT_BYTES, FAST_COMMIT_SECONDS, Settings
from retrieval.progress import Observer, Progress

if TYPE_CHECKING:
    from retrieval.indexing.workers import WorkerReader

MANY_SEGMENTS = 64


class Run:
    """One run over a plan. progress: the counts so far."""

    def __init__(
        self,
        writer: CollectionWriter,
        encoder: Encoder,
        settings: Settings,
        observer: Observer,
        plan: Plan,
        read: ImageReader,
        threads: int,
        workers: int = 0,
    ) -> None:
        """read: for `threads` threads of this process, and for what `workers` worker processes leave to it. With no
        workers, the threads read everything."""
        self._read = read
        self._threads = threads
        self._workers = workers
        self._writer = writer
        self._encoder = encoder
        self._settings = settings
        self._observer = observer
        self._started = time.monotonic()
        # Positions are those of the snapshot that the plan was made from; commits that follow do not change it.
        self._snapshot = writer.collection
        self._contents: set[bytes] = set()  # hashes of files of this run that may have the same content as others
        self._repeats: list[Reading] = []
        self._again: list[Encoding] = []  # files whose known content turned out to be damaged
        self._damage: DamagedSegmentError | None = None
        self.progress = Progress(
            total=len(plan.add) + len(plan.reencode), unchanged=plan.unchanged, still_failing=plan.still_failing
        )

    def report(self, passed_over: Mapping[str, int] | None = None, **counts: int) -> None:
        """Adds to the counts and tells the observer."""
        changes: dict[str, Any] = {name: getattr(self.progress, name) + count for name, count in counts.items()}
        changes |= {} if passed_over is None else {"passed_over": passed_over}
        self.progress = replace(self.progress, **changes, seconds=time.monotonic() - self._started)
        self._observer.progress(self.progress)

    def rename(self, renames: Sequence[Rename]) -> None:
        """Copies the rows of known content, with embedding and regions, to new paths or times."""
        for low in range(0, len(renames), self._settings.commit_rows):
            chunk = renames[low : low + self._settings.commit_rows]
            pending = Pending()
            positions, files = [rename.position for rename in chunk], [rename.file for rename in chunk]
            is_sound = self._copy(self._snapshot, positions, files, pending).is_sound
            done = [rename for rename, sound in zip(chunk, is_sound, strict=True) if sound]
            damaged = [rename for rename, sound in zip(chunk, is_sound, strict=True) if not sound]
            pending.dead += [rename.replaces for rename in done]
            self._again += [Encoding(rename.file, rename.replaces) for rename in damaged]
            self._commit(pending)
            touched = sum(rename.old == rename.file.path for rename in done)
            self.report(total=len(damaged), touched=touched, moved=len(done) - touched)
            if self._stops():
                return

    def _stops(self) -> bool:
        if self._observer.should_stop():
            self.progress = replace(self.progress, interrupted=True)
        return self.progress.interrupted

    def encode(self, encodings: Sequence[Encoding]) -> None:
        """Reads, encodes and commits in the plan's order. When the observer asks to stop, all that is encoded is
        committed.

        At the end raises `DamagedSegmentError` if a segment turned out to be damaged."""
        self._encode(encodings)
        self._copy_repeats()
        again, self._again = self._again, []
        self._encode(again)
        if self._damage is not None:
            raise self._damage

    def _encode(self, encodings: Sequence[Encoding]) -> None:
        if not encodings or self._stops():
            return
        pending = Pending()
        with ExitStack() as stack:
            batches = encode_batches(self._batches(encodings, stack), self._without_repeats, self._encoder, self._stops)
            stack.enter_context(closing(batches))
            writing = stack.enter_context(Crew(1, "write"))
            write: Future[None] | None = None
            for readings, encoded in batches:
                self._add(readings, encoded, pending)
                if self._is_due(pending):
                    if write is not None:
                        write.result()
                    is_urgent = pending.is_urgent
                    write, pending = writing.submit(partial(self._commit, pending)), Pending()
                    if is_urgent:
                        write.result()
                if write is not None and write.done():
                    write.result()  # raises for a full disk now, not after another 512 images
            if write is not None:
                write.result()
            self._commit(pending)

    def _is_due(self, pending: Pending) -> bool:
        """Whether to make a commit now. An encoder on a GPU makes few, so that files are synced less often; and more
        images in one than there are left, so that it need not be merged with those that follow."""
        seconds = time.monotonic() - pending.since
        if len(pending) and (seconds > self._settings.commit_seconds or pending.is_urgent):
            return True
        is_large = len(pending) >= self._settings.commit_rows
        if not (is_large and self._encoder.takes_pixels):
            return is_large
        left = self.progress.total - self.progress.done
        return seconds > FAST_COMMIT_SECONDS or pending.nbytes > FAST_COMMIT_BYTES or len(pending) > left

    def _batches(self, encodings: Sequence[Encoding], stack: ExitStack) -> Iterator[Batch]:
        """stack: ends the workers."""
        if self._workers and len(encodings) >= self._encoder.batch_size:
            from retrieval.indexing.workers import WorkerReader  # not worth importing for a few files

            try:
                reader = stack.enter_context(WorkerReader(self._read, self._workers, len(encodings)))
                stack.callback(self._note_given_up, reader)
                return reader.batches(encodings, self._encoder.batch_size, self._stops)
            except (OSError, ValueError) as error:  # no process can be started, or no memory can be shared
                self._observer.note(f"threads decode, which is slower than worker processes: {error}")
        if self._encoder.takes_pixels:
            size = batch_size_of(self._encoder)
            return photo_batches(encodings, self._read, size, self._threads, self._stops)
        return read_batches(encodings, self._read, batch_size_of(self._encoder), self._threads)

    def _note_given_up(self, reader: WorkerReader) -> None:
        if reader.given_up:
            self._observer.note(f"{reader.given_up} worker processes ended without a reason; threads read instead")

    def _add(self, batch: Sequence[Reading], encoded: EncodedFiles, pending: Pending) -> None:
        pending.add(encoded)
        copies = [item for item in batch if item.position is not None]
        copied = self._copy_readings(copies, self._snapshot, [item.position or 0 for item in copies], pending)
        pending.is_urgent |= any(item.kills_decoder for item in batch)
        for item in batch:
            if item.postponed is None and item.position is None:
                pending.replace(item.encoding)
        for failure in encoded.failures:
            self._observer.failure(failure.path, failure.error)
        for path, reason in encoded.postponed:
            self._observer.failure(path, reason)
        new = [item for item in batch if item.row is not None and item.position is None]
        changed = sum(item.encoding.changed for item in new)
        self.report(
            new=len(new) - changed,
            changed=changed,
            copied=copied,
            failed=len(encoded.failures),
            postponed=len(encoded.postponed),
            incomplete=sum(item.row is not None and item.row.note != "" for item in new),
        )

    def _without_repeats(self, readings: Sequence[Reading]) -> list[Reading]:
        """The readings whose content is new to this run. The others are copied later, by `_copy_repeats`."""
        first = []
        for item in readings:
            may_repeat = item.encoding.may_be_known and item.row is not None and item.position is None
            if may_repeat and item.row is not None and item.row.content_hash in self._contents:
                self._repeats.append(replace(item, prepared=None))
                continue
            if may_repeat and item.row is not None:
                self._contents.add(item.row.content_hash)
            first.append(item)
        return first

    def _copy_repeats(self) -> None:
        """Copies the rows that this run made for other files of the same content."""
        step, collection = self._settings.commit_rows, self._writer.collection
        positions = positions_by_content(collection, [item.encoding for item in self._repeats])
        for low in range(0, len(self._repeats), step):
            chunk = self._repeats[low : low + step]
            copies = [item for item in chunk if item.row is not None and item.row.content_hash in positions]
            known = [positions[item.row.content_hash] for item in copies if item.row is not None]
            pending = Pending()
            copied = self._copy_readings(copies, collection, known, pending)
            self._commit(pending)
            self.report(copied=copied, postponed=len(chunk) - len(copies))

    def _copy_readings(
        self, readings: Sequence[Reading], collection: Collection, positions: Sequence[int], pending: Pending
    ) -> int:
        """Adds the rows of files of known content. Returns how many were added. If the known row of a file is damaged,
        the file is encoded at the end instead."""
        copies = self._copy(collection, positions, [item.row for item in readings if item.row is not None], pending)
        for item, is_sound in zip(readings, copies.is_sound, strict=True):
            if is_sound:
                pending.replace(item.encoding)
            else:
                self._again.append(replace(item.encoding, may_be_known=False))
        return sum(copies.is_sound)

    def _copy(
        self, collection: Collection, positions: Sequence[int], files: Sequence[File | Row], pending: Pending
    ) -> Copies:
        copies = copy_rows(collection, positions, files)
        pending.add_copies(copies)
        self._damage = copies.damage or self._damage
        return copies

    def _commit(self, pending: Pending) -> None:
        if pending.is_empty:
            return
        self._writer.commit(
            pending.batch(self._writer.manifest.next_id),
            dead=pending.dead,
            removed=pending.removed,
            revived=pending.revived,
        )
        if self._read.in_flight is not None:
            for failure in pending.failures:
                self._read.in_flight.settle(failure.path)
        if len(self._writer.manifest.segments) > MANY_SEGMENTS and self._damage is None:
            try:
                self._writer.merge()
            except DamagedSegmentError as error:  # no reason to lose what is still to be done
                self._damage = error
