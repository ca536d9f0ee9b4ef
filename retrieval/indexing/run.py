"""One run over a plan: read, encode, write and commit, which overlap."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from indexes.checksums import row_checksums
from indexes.collection import Collection
from indexes.errors import DamagedSegmentError
from indexes.rows import Row
from indexes.writer import CollectionWriter
from retrieval.encoders.base import Encoder, ImageFeatures
from retrieval.indexing.listing import File
from retrieval.indexing.pending import Pending
from retrieval.indexing.plan import Encoding, Plan, Rename
from retrieval.indexing.reading import ImageReader, Reading, failure_of
from retrieval.indexing.survey import Settings
from retrieval.progress import Observer, Progress

MANY_SEGMENTS = 64


class Run:
    """One run over a plan, with the counts so far."""

    def __init__(
        self,
        writer: CollectionWriter,
        encoder: Encoder,
        settings: Settings,
        observer: Observer,
        plan: Plan,
        read: ImageReader,
        threads: int,
    ) -> None:
        self._read = read
        self._threads = threads
        self._writer = writer
        self._encoder = encoder
        self._settings = settings
        self._observer = observer
        self._started = time.monotonic()
        # Positions are those of the snapshot that the plan was made from; commits that follow do not change it.
        self._snapshot = writer.collection
        self._contents: set[bytes] = set()  # of files of this run that may have the same content as others
        self._repeats: list[Reading] = []
        self._again: list[Encoding] = []  # whose known content turned out to be damaged
        self._damage: DamagedSegmentError | None = None
        self.progress = Progress(
            total=len(plan.add) + len(plan.reencode), unchanged=plan.unchanged, still_failing=plan.still_failing
        )

    def report(self, passed_over: Mapping[str, int] | None = None, **counts: int) -> None:
        """Add to the counts and tell the observer."""
        changes: dict[str, Any] = {name: getattr(self.progress, name) + count for name, count in counts.items()}
        changes |= {} if passed_over is None else {"passed_over": passed_over}
        self.progress = replace(self.progress, **changes, seconds=time.monotonic() - self._started)
        self._observer.progress(self.progress)

    def rename(self, renames: Sequence[Rename]) -> None:
        """Give known content its new path or times: the row is written again with its embedding and tokens."""
        for low in range(0, len(renames), self._settings.commit_rows):
            some = renames[low : low + self._settings.commit_rows]
            positions = [rename.position for rename in some]
            pending = Pending()
            sound = self._copy(self._snapshot, positions, [rename.file for rename in some], pending)
            damaged = [rename for rename, is_sound in zip(some, sound, strict=True) if not is_sound]
            some = [rename for rename, is_sound in zip(some, sound, strict=True) if is_sound]
            pending.dead += [rename.replaces for rename in some]
            self._again += [Encoding(rename.file, rename.replaces) for rename in damaged]
            self._commit(pending)
            touched = sum(rename.old == rename.file.path for rename in some)
            self.report(total=len(damaged), touched=touched, moved=len(some) - touched)
            if self._stops():
                return

    def _stops(self) -> bool:
        if self._observer.should_stop():
            self.progress = replace(self.progress, interrupted=True)
        return self.progress.interrupted

    def encode(self, encodings: Sequence[Encoding]) -> None:
        """Decode, encode and commit in the plan's order; a stop asked for keeps all that is encoded.

        Raises `DamagedSegmentError`, when all is done, where a segment was found damaged on the way."""
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
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writing:
            write: Future[None] | None = None
            for batch in self._read_batches(encodings):
                self._encode_batch(batch, pending)
                old = time.monotonic() - pending.since > self._settings.commit_seconds
                if len(pending) >= self._settings.commit_rows or (len(pending) and (old or pending.is_urgent)):
                    if write is not None:
                        write.result()
                    is_urgent = pending.is_urgent
                    write, pending = writing.submit(self._commit, pending), Pending()
                    if is_urgent:
                        write.result()
                if self._stops():
                    break
                if write is not None and write.done():
                    write.result()  # a full disk is told now, not after another 512 images
            if write is not None:
                write.result()
            self._commit(pending)

    def _read_batches(self, encodings: Sequence[Encoding]) -> Iterator[list[Reading]]:
        ahead = 2 * self._threads + 2 * self._encoder.batch_size
        waiting: deque[Future[Reading]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="decode") as decoding:
            try:
                batch: list[Reading] = []
                for encoding in encodings:
                    waiting.append(decoding.submit(self._read, encoding))
                    if len(waiting) > ahead:
                        batch.append(waiting.popleft().result())
                        if len(batch) == self._encoder.batch_size:
                            yield batch
                            batch = []
                while waiting:
                    batch.append(waiting.popleft().result())
                    if len(batch) == self._encoder.batch_size or not waiting:
                        yield batch
                        batch = []
            finally:
                decoding.shutdown(cancel_futures=True)

    def _encode_batch(self, readings: Sequence[Reading], pending: Pending) -> None:
        batch = self._encoded(self._without_repeats(readings), pending)
        copies = [item for item in batch if item.position is not None]
        sound = self._copied(copies, self._snapshot, [item.position or 0 for item in copies], pending)
        failures = [item.failure for item in batch if item.failure is not None]
        pending.failures += failures
        pending.is_urgent |= any(item.kills for item in batch)
        for item in batch:
            if item.postponed is None and item.position is None:
                pending.replace(item.encoding)
        for failure in failures:
            self._observer.failure(failure.path, failure.error)
        postponed = [item for item in batch if item.postponed is not None]
        for item in postponed:
            self._observer.failure(item.encoding.file.path, item.postponed or "")
        encoded = [item for item in batch if item.row is not None and item.position is None]
        changed = sum(item.encoding.changed for item in encoded)
        self.report(
            new=len(encoded) - changed,
            changed=changed,
            copied=sound,
            failed=len(failures),
            postponed=len(postponed),
            incomplete=sum(item.row is not None and item.row.note != "" for item in encoded),
        )

    def _without_repeats(self, readings: Sequence[Reading]) -> list[Reading]:
        """Without those that have the same content as one before in this run: they are copied from it in the end."""
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
        """Files of the same content as one that this run encoded."""
        step, collection = self._settings.commit_rows, self._writer.collection
        positions = positions_by_content(collection, [item.encoding for item in self._repeats])
        for low in range(0, len(self._repeats), step):
            some = self._repeats[low : low + step]
            copies = [item for item in some if item.row is not None and item.row.content_hash in positions]
            places = [positions[item.row.content_hash] for item in copies if item.row is not None]
            pending = Pending()
            sound = self._copied(copies, collection, places, pending)
            self._commit(pending)
            self.report(copied=sound, postponed=len(some) - len(copies))

    def _copied(
        self, copies: Sequence[Reading], collection: Collection, positions: Sequence[int], pending: Pending
    ) -> int:
        """Add files of known content to what is pending. Those whose known content is damaged are to be encoded after
        all; returns how many others there are."""
        sound = self._copy(collection, positions, [item.row for item in copies if item.row is not None], pending)
        for item, is_sound in zip(copies, sound, strict=True):
            if is_sound:
                pending.replace(item.encoding)
            else:
                self._again.append(replace(item.encoding, may_be_known=False))
        return sum(sound)

    def _copy(
        self, collection: Collection, positions: Sequence[int], files: Sequence[File | Row], pending: Pending
    ) -> list[bool]:
        """Add rows of known content for some files, with the embeddings and tokens that it has already. Returns which
        of them are sound; the others are not added."""
        if not positions:
            return []
        rows, places = collection.rows(positions), np.asarray(positions, np.int64)
        embeddings, tokens = collection.embeddings(places), collection.tokens(places)
        stated = np.array([row.checksum for row in rows], np.int64)
        sound = (stated == 0) | (stated == np.array(row_checksums(embeddings, tokens), np.int64))
        if not sound.all():
            segment = collection.segments[int(np.searchsorted(collection.starts, places[~sound][0], side="right")) - 1]
            self._damage = DamagedSegmentError(segment.folder, "embeddings or tokens", "a row's checksum is wrong")
        pairs = zip(rows, files, sound.tolist(), strict=True)
        pending.rows += [_moved(row, file) for row, file, is_sound in pairs if is_sound]
        pending.embeddings.append(embeddings[sound])
        pending.tokens.append(tokens[sound])
        ids = np.array([row.id for row in rows], np.int64)
        pending.revived += ids[sound & (collection.positions(ids) < 0)].tolist()
        return list(sound.tolist())

    def _encoded(self, batch: list[Reading], pending: Pending) -> list[Reading]:
        """Encode the images of a batch. Returns the batch, in which an image whose embedding has components that are no
        numbers (16 bits overflow) is a failure."""
        places = [index for index, item in enumerate(batch) if item.prepared is not None]
        if not places:
            return batch
        features = self._encoder.encode_images([item.prepared for item in batch if item.prepared is not None])
        is_number = np.asarray(np.isfinite(features.embeddings).all(axis=1))
        if not is_number.all():
            for index in np.array(places)[~is_number].tolist():
                failure = failure_of(batch[index].encoding.file, "gives the model numbers that are too large for it")
                batch[index] = Reading(batch[index].encoding, failure=failure)
            features = ImageFeatures(features.embeddings[is_number], features.tokens[is_number])
        pending.rows += [item.row for item in batch if item.row is not None and item.prepared is not None]
        pending.embeddings.append(features.embeddings)
        pending.tokens.append(features.tokens)
        return batch

    def _commit(self, pending: Pending) -> None:
        if pending.is_empty:
            return
        manifest = self._writer.manifest
        batch = pending.batch(manifest.next_id, manifest.binding.token_dtype)
        self._writer.commit(
            batch if len(pending) else None, dead=pending.dead, removed=pending.removed, revived=pending.revived
        )
        if self._read.in_flight is not None:
            for item in pending.failures:
                self._read.in_flight.settle(item.path)
        if len(self._writer.manifest.segments) > MANY_SEGMENTS and self._damage is None:
            try:
                self._writer.merge()
            except DamagedSegmentError as error:  # no reason to lose what is still to be done
                self._damage = error


def positions_by_content(collection: Collection, encodings: Sequence[Encoding]) -> Mapping[bytes, int]:
    """Where rows are whose content some of the files may have, by content hash; rows that count come first."""
    sizes = np.unique(np.array([item.file.size for item in encodings if item.may_be_known], np.int64))
    positions: dict[bytes, int] = {}
    if len(sizes):
        columns = ["size", "content_hash"]
        for table in (collection.table(columns), collection.dead(columns)):
            same = np.isin(table["size"].to_numpy(), sizes)
            hashes = table["content_hash"].filter(same).to_pylist()
            for content, position in zip(hashes, table["position"].to_numpy()[same].tolist(), strict=True):
                positions.setdefault(content, position)
    return positions


def _moved(known: Row, file: File | Row) -> Row:
    """What is known of a content, for another file that has it."""
    return replace(known, path=file.path, size=file.size, mtime_ns=file.mtime_ns, ctime_ns=file.ctime_ns)
