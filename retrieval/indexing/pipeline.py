"""The offline pipeline: scan, decode, encode, write, commit. Decoding, encoding and writing overlap."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.manifest import Binding
from indexes.recovery import current_binding
from indexes.rows import Failure, Row, failures_table, rows_table
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter
from retrieval.encoders.base import Encoder, ImageFeatures
from retrieval.encoders.runtime import usable_cores
from retrieval.images import TooManyPixels, UnreadableImage, decode
from retrieval.indexing.listing import File
from retrieval.indexing.plan import Encoding, Plan, Rename
from retrieval.indexing.survey import DEFAULTS, Settings, find_roots, list_roots, new_hash, refuse_nothing, survey
from retrieval.progress import SILENT, Interrupted, Observer, Progress

MANY_SEGMENTS = 64
SMALL_BYTES = 64_000_000  # read whatever the limit
BYTES_A_PIXEL = 2.5  # of a file; 16-bit TIFF, the largest format, has 6 without compression, JPEG less than 1


def index_folders(
    folders: Sequence[str | Path],
    collection: Path,
    encoder: Encoder,
    settings: Settings = DEFAULTS,
    observer: Observer = SILENT,
) -> Progress:
    """Bring a collection up to date with some folders; rows of other folders stay as they are. With `repair`, all
    folders of the collection are looked at, since each may have lost images with a damaged segment.

    Raises `CrosslookError` when a folder does not exist, holds no image, or seems to be an unmounted drive; when the
    collection is bound to another model, in use by another writer or damaged; when the disk is full. Whatever happens,
    what was committed stays searchable, and running again goes on from there."""
    started = time.monotonic()
    roots = find_roots(folders)
    if current_binding(collection) is None:
        refuse_nothing(roots, list_roots(roots, settings))  # before a collection is made for nothing
    with CollectionWriter(collection, binding_of(encoder), settings.repair) as writer:
        if writer.dropped:
            known = [os.fsencode(folder) for folder in writer.manifest.folders]
            roots = list(dict.fromkeys([*roots, *(folder for folder in known if os.path.isdir(folder))]))
        # Listed under the lock: what another writer added meanwhile would seem to be gone.
        try:
            found = survey(roots, writer.collection, settings, observer)
        except Interrupted:
            return Progress(interrupted=True, dropped=writer.dropped, seconds=time.monotonic() - started)
        run = _Run(writer, encoder, settings, observer, found.plan, started, _reader(settings.max_pixels))
        removed = [gone.id for gone in (*found.plan.remove, *found.plan.forget)]
        if removed or found.folders != writer.manifest.folders:
            writer.commit(removed=removed, folders=found.folders)
        run.report(removed=len(found.plan.remove), dropped=writer.dropped)
        run.rename(found.plan.rename)
        run.encode([*found.plan.reencode, *found.plan.add])
        if not run.progress.interrupted:
            writer.merge()
        return run.progress


def index_images(
    images: Sequence[bytes],
    read: Callable[[bytes], bytes],
    collection: Path,
    encoder: Encoder,
    settings: Settings = DEFAULTS,
    observer: Observer = SILENT,
) -> Progress:
    """Add images that are not those of a folder, such as the ones a captions file lists: `read` gives the bytes of each
    by its name, which becomes its path. Raises what `index_folders` raises of collections, and what `read` does."""
    plan = Plan(add=tuple(Encoding(File(name, 0, 0, 0)) for name in images))
    with CollectionWriter(collection, binding_of(encoder), settings.repair) as writer:
        run = _Run(writer, encoder, settings, observer, plan, time.monotonic(), lambda file: (file, read(file.path)))
        run.encode(plan.add)
        return run.progress


def binding_of(encoder: Encoder) -> Binding:
    """What a collection made with this encoder is bound to."""
    return Binding(encoder.name, encoder.fingerprint, encoder.dim, encoder.token_shape, encoder.token_dtype)


@dataclass(frozen=True)
class _Decoded:
    """A file as read: `prepared` for the encoder and its `row` (without an id yet), or the `failure` that it is, or
    neither when it has vanished since it was listed."""

    encoding: Encoding
    row: Row | None = None
    prepared: NDArray[Any] | None = None
    failure: Failure | None = None


@dataclass
class _Pending:
    """What the next commit will hold; ids are given when it is made."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    embeddings: list[NDArray[Any]] = field(default_factory=list)
    tokens: list[NDArray[Any]] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.rows) + len(self.failures)


class _Run:
    """One run over a plan, with the counts so far."""

    def __init__(
        self,
        writer: CollectionWriter,
        encoder: Encoder,
        settings: Settings,
        observer: Observer,
        plan: Plan,
        started: float,
        read: Callable[[File], tuple[File, bytes]],
    ) -> None:
        self._read = read
        self._writer = writer
        self._encoder = encoder
        self._settings = settings
        self._observer = observer
        self._started = started
        self.progress = Progress(
            total=len(plan.add) + len(plan.reencode), unchanged=plan.unchanged, still_failing=plan.still_failing
        )

    def report(self, **counts: int) -> None:
        """Add to the counts and tell the observer."""
        summed = {name: getattr(self.progress, name) + count for name, count in counts.items()}
        self.progress = replace(self.progress, **summed, seconds=time.monotonic() - self._started)
        self._observer.progress(self.progress)

    def rename(self, renames: Sequence[Rename]) -> None:
        """Give known content its new path or times: the row is written again with its embedding and tokens."""
        # Positions are those of the snapshot that the plan was made from; commits that follow do not change it.
        snapshot = self._writer.collection
        for low in range(0, len(renames), self._settings.commit_rows):
            some = renames[low : low + self._settings.commit_rows]
            positions = [rename.position for rename in some]
            rows = snapshot.rows(positions)
            pending = _Pending(
                rows=[
                    replace(row, path=rename.file.path, size=rename.file.size, mtime_ns=rename.file.mtime_ns)
                    for row, rename in zip(rows, some, strict=True)
                ],
                embeddings=[snapshot.embeddings(positions)],
                tokens=[snapshot.tokens(positions)],
                dead=[rename.replaces for rename in some],
            )
            self._commit(pending)
            self.report(moved=len(some))
            if self._stops():
                return

    def _stops(self) -> bool:
        if self._observer.should_stop():
            self.progress = replace(self.progress, interrupted=True)
        return self.progress.interrupted

    def encode(self, encodings: Sequence[Encoding]) -> None:
        """Decode, encode and commit in the plan's order; a stop asked for keeps all that is encoded."""
        if self._stops():
            return
        pending = _Pending()
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writing:
            write: Future[None] | None = None
            for batch in self._decoded_batches(encodings):
                self._encode_batch(batch, pending)
                old = time.monotonic() - pending.since > self._settings.commit_seconds
                if len(pending) >= self._settings.commit_rows or (old and len(pending)):
                    if write is not None:
                        write.result()
                    write, pending = writing.submit(self._commit, pending), _Pending()
                if self._stops():
                    break
                if write is not None and write.done():
                    write.result()  # a full disk is told now, not after another 512 images
            if write is not None:
                write.result()
            if len(pending) or pending.dead:
                self._commit(pending)

    def _decoded_batches(self, encodings: Sequence[Encoding]) -> Iterator[list[_Decoded]]:
        threads = usable_cores()
        ahead = 2 * threads + 2 * self._encoder.batch_size
        waiting: deque[Future[_Decoded]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as decoding:
            try:
                batch: list[_Decoded] = []
                for encoding in encodings:
                    waiting.append(decoding.submit(self._decode, encoding))
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

    def _decode(self, encoding: Encoding) -> _Decoded:
        file = encoding.file
        try:
            file, content = self._read(file)
            digest = new_hash()
            digest.update(content)
            photo = decode(content, self._encoder.image_size, self._settings.max_pixels)
            row = Row(
                id=0,
                path=file.path,
                size=file.size,
                mtime_ns=file.mtime_ns,
                content_hash=digest.digest(),
                width=photo.width,
                height=photo.height,
                taken_at=photo.taken_at,
            )
            return _Decoded(encoding, row, self._encoder.prepare(photo))
        except TooManyPixels as error:
            return _Decoded(encoding, failure=_failure(file, str(error), error.pixels))
        except UnreadableImage as error:
            return _Decoded(encoding, failure=_failure(file, str(error)))
        except FileNotFoundError:
            broken = os.path.islink(file.path)
            return _Decoded(encoding, failure=_failure(file, "is a broken link") if broken else None)
        except OSError as error:
            return _Decoded(encoding, failure=_failure(file, f"cannot be read: {error.strerror or error}"))

    def _encode_batch(self, batch: Sequence[_Decoded], pending: _Pending) -> None:
        batch, features = self._features(batch)
        if features is not None:
            pending.embeddings.append(features.embeddings)
            pending.tokens.append(features.tokens)
        failures = [item.failure for item in batch if item.failure is not None]
        pending.rows += [item.row for item in batch if item.row is not None]
        pending.failures += failures
        pending.dead += [item.encoding.replaces for item in batch if item.encoding.replaces is not None]
        for failure in failures:
            self._observer.failure(failure.path, failure.error)
        changed = sum(item.encoding.changed for item in batch if item.row is not None)
        encoded = sum(item.row is not None for item in batch)
        self.report(new=encoded - changed, changed=changed, failed=len(failures))

    def _features(self, batch: Sequence[_Decoded]) -> tuple[list[_Decoded], ImageFeatures | None]:
        """Of the images of a batch, None where there are none; and the batch, in which an image whose embedding has
        components that are no numbers (16 bits overflow) is a failure."""
        there = [index for index, item in enumerate(batch) if item.prepared is not None]
        if not there:
            return list(batch), None
        features = self._encoder.encode_images([item.prepared for item in batch if item.prepared is not None])
        is_number = np.asarray(np.isfinite(features.embeddings).all(axis=1))
        if is_number.all():
            return list(batch), features
        changed = list(batch)
        for index, whole in zip(there, is_number.tolist(), strict=True):
            if not whole:
                failure = _failure(batch[index].encoding.file, "gives the model numbers that are too large for it")
                changed[index] = _Decoded(batch[index].encoding, failure=failure)
        return changed, ImageFeatures(features.embeddings[is_number], features.tokens[is_number])

    def _commit(self, pending: _Pending) -> None:
        first = self._writer.manifest.next_id
        rows = [replace(row, id=first + index) for index, row in enumerate(pending.rows)]
        failures = [replace(item, id=first + len(rows) + index) for index, item in enumerate(pending.failures)]
        batch = Batch(rows_table(rows), failures_table(failures), pending.embeddings, pending.tokens)
        self._writer.commit(batch if len(pending) else None, dead=pending.dead)
        if len(self._writer.manifest.segments) > MANY_SEGMENTS:
            self._writer.merge()


class TooManyBytes(TooManyPixels):
    """A file so large that it is not even read; `pixels` is the limit that would admit it."""

    def __init__(self, size: int) -> None:
        self.pixels = int(size / BYTES_A_PIXEL) + 1
        megapixels = -(-self.pixels // 1_000_000)
        UnreadableImage.__init__(
            self, f"has {size / 1e6:.0f} MB, too many to read: raise it with --max-pixels {megapixels}"
        )


def _reader(max_pixels: int) -> Callable[[File], tuple[File, bytes]]:
    """Gives the content of a file, and what it is now that it is read: it may be newer than the listing."""

    def read(file: File) -> tuple[File, bytes]:
        with open(file.path, "rb") as opened:
            status = os.fstat(opened.fileno())
            if status.st_size > max(SMALL_BYTES, BYTES_A_PIXEL * max_pixels):
                raise TooManyBytes(status.st_size)
            return File(file.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns), opened.read()

    return read


def _failure(file: File, error: str, pixels: int = 0) -> Failure:
    return Failure(0, file.path, file.size, file.mtime_ns, file.ctime_ns, pixels, error)
