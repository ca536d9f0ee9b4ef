"""One run over a plan: read, encode, write and commit, which overlap."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.errors import DamagedSegmentError
from indexes.rows import Failure, Row, failures_table, rows_table
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter
from retrieval.encoders.base import Encoder, ImageFeatures
from retrieval.indexing.listing import File
from retrieval.indexing.plan import Encoding, Plan, Rename
from retrieval.indexing.reading import ImageReader, Reading, failure_of
from retrieval.indexing.survey import Settings
from retrieval.progress import Observer, Progress

MANY_SEGMENTS = 64


@dataclass
class Pending:
    """What the next commit will hold; ids are given when it is made."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    embeddings: list[NDArray[Any]] = field(default_factory=list)
    tokens: list[NDArray[Any]] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.rows) + len(self.failures)

    def add_copies(self, rows: Sequence[Row], collection: Collection, positions: Sequence[int]) -> None:
        """Rows whose embeddings and tokens are those of some positions."""
        self.rows += rows
        self.embeddings.append(collection.embeddings(positions))
        self.tokens.append(collection.tokens(positions))


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
            known = self._snapshot.rows(positions)
            rows = [_moved(row, rename.file) for row, rename in zip(known, some, strict=True)]
            pending = Pending(dead=[rename.replaces for rename in some])
            pending.add_copies(rows, self._snapshot, positions)
            self._commit(pending)
            touched = sum(rename.old == rename.file.path for rename in some)
            self.report(touched=touched, moved=len(some) - touched)
            if self._stops():
                return

    def _stops(self) -> bool:
        if self._observer.should_stop():
            self.progress = replace(self.progress, interrupted=True)
        return self.progress.interrupted

    def encode(self, encodings: Sequence[Encoding]) -> None:
        """Decode, encode and commit in the plan's order; a stop asked for keeps all that is encoded.

        Raises `DamagedSegmentError`, when all is done, where a segment was found damaged on the way."""
        if self._stops():
            return
        pending = Pending()
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writing:
            write: Future[None] | None = None
            for batch in self._read_batches(encodings):
                self._encode_batch(batch, pending)
                old = time.monotonic() - pending.since > self._settings.commit_seconds
                if len(pending) >= self._settings.commit_rows or (old and len(pending)):
                    if write is not None:
                        write.result()
                    write, pending = writing.submit(self._commit, pending), Pending()
                if self._stops():
                    break
                if write is not None and write.done():
                    write.result()  # a full disk is told now, not after another 512 images
            if write is not None:
                write.result()
            if len(pending) or pending.dead:
                self._commit(pending)
        self._copy_repeats()
        if self._damage is not None:
            raise self._damage

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
        copies = [item for item in batch if item.row is not None and item.position is not None]
        self._copy(copies, self._snapshot, [item.position for item in copies if item.position is not None], pending)
        settled = [item for item in batch if item.postponed is None]
        failures = [item.failure for item in batch if item.failure is not None]
        pending.failures += failures
        pending.dead += [item.encoding.replaces for item in settled if item.encoding.replaces is not None]
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
            copied=len(copies),
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
            pending = Pending(dead=[item.encoding.replaces for item in copies if item.encoding.replaces is not None])
            places = [positions[item.row.content_hash] for item in copies if item.row is not None]
            self._copy(copies, collection, places, pending)
            self._commit(pending)
            self.report(copied=len(copies), postponed=len(some) - len(copies))

    def _copy(
        self, copies: Sequence[Reading], collection: Collection, positions: Sequence[int], pending: Pending
    ) -> None:
        """Rows of known content, with the embeddings and tokens that it has already."""
        if not copies:
            return
        known = collection.rows(positions)
        rows = [_moved(row, item.row) for row, item in zip(known, copies, strict=True) if item.row is not None]
        pending.add_copies(rows, collection, positions)

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
        first = self._writer.manifest.next_id
        rows = [replace(row, id=first + index) for index, row in enumerate(pending.rows)]
        failures = [replace(item, id=first + len(rows) + index) for index, item in enumerate(pending.failures)]
        batch = Batch(rows_table(rows), failures_table(failures), pending.embeddings, pending.tokens)
        self._writer.commit(batch if len(pending) else None, dead=pending.dead)
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
        for table in (collection.table(columns), collection.removed(columns)):
            same = np.isin(table["size"].to_numpy(), sizes)
            hashes = table["content_hash"].filter(same).to_pylist()
            for content, position in zip(hashes, table["position"].to_numpy()[same].tolist(), strict=True):
                positions.setdefault(content, position)
    return positions


def _moved(known: Row, file: File | Row) -> Row:
    """What is known of a content, for another file that has it."""
    return replace(known, path=file.path, size=file.size, mtime_ns=file.mtime_ns, ctime_ns=file.ctime_ns)
