"""The offline pipeline: scan, decode, encode, write, commit. Decoding, encoding and writing overlap."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.manifest import Binding, current_manifest
from indexes.segment import Batch, Failure, Row, failures_table, rows_table
from indexes.writer import CollectionWriter
from retrieval.encoders.base import Encoder
from retrieval.encoders.runtime import usable_cores
from retrieval.images import ENDINGS, MAX_PIXELS, TooManyPixels, UnreadableImage, decode
from retrieval.scan import Encoding, File, Listing, Plan, Rename, is_below, list_images, make_plan

COMMIT_ROWS = 512
COMMIT_SECONDS = 30.0
MANY_SEGMENTS = 64
KNOWN_COLUMNS = ("id", "path", "size", "mtime_ns", "content_hash")


@dataclass(frozen=True)
class Progress:
    """Where a run is: images done of `total` to encode, and what has happened so far. seconds: since it began."""

    total: int = 0
    new: int = 0
    changed: int = 0
    moved: int = 0
    removed: int = 0
    failed: int = 0
    unchanged: int = 0
    still_failing: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def encoded(self) -> int:
        return self.new + self.changed

    @property
    def done(self) -> int:
        return self.encoded + self.failed


@dataclass(frozen=True)
class Settings:
    """How to index. exclude: glob patterns. max_pixels: of one image to decode. retry_failed: read files again that
    failed before. repair: drop damaged segments. A commit is made after `commit_rows` images or `commit_seconds`."""

    exclude: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    retry_failed: bool = False
    repair: bool = False
    commit_rows: int = COMMIT_ROWS
    commit_seconds: float = COMMIT_SECONDS


@dataclass(frozen=True)
class Observer:
    """What the pipeline tells while it runs, and asks: whether to stop early, keeping what is done."""

    progress: Callable[[Progress], None] = lambda progress: None
    failure: Callable[[bytes, str], None] = lambda path, reason: None
    should_stop: Callable[[], bool] = lambda: False


DEFAULTS = Settings()
SILENT = Observer()


def plan_folders(folders: Sequence[str | Path], collection: Path, settings: Settings = DEFAULTS) -> Plan:
    """What `index_folders` would do. Reads only; raises as it does."""
    roots, listing = _list(folders, settings)
    if current_manifest(collection) is None:
        return _plan(None, roots, listing, settings)
    return _plan(Collection.open(collection), roots, listing, settings)


def index_folders(
    folders: Sequence[str | Path],
    collection: Path,
    encoder: Encoder,
    settings: Settings = DEFAULTS,
    observer: Observer = SILENT,
) -> Progress:
    """Bring a collection up to date with some folders; rows of other folders stay as they are.

    Raises `CrosslookError` when a folder does not exist, holds no image, or seems to be an unmounted drive; when the
    collection is bound to another model, in use by another writer or damaged; when the disk is full. Whatever happens,
    what was committed stays searchable, and running again goes on from there."""
    started = time.monotonic()
    roots, listing = _list(folders, settings)
    for folder, reason in listing.unlisted:
        observer.failure(folder, reason)
    if current_manifest(collection) is None:
        _refuse_nothing(roots, listing)
    with CollectionWriter(collection, binding_of(encoder), settings.repair) as writer:
        plan = _plan(writer.collection, roots, listing, settings)
        run = _Run(writer, encoder, settings, observer, plan, started, _read_file)
        covered = tuple(os.fsdecode(root) for root in roots)
        if plan.remove or plan.forget or not set(covered) <= set(writer.manifest.folders):
            folders_now = _without_nested((*writer.manifest.folders, *covered))
            writer.commit(dead=[gone.id for gone in (*plan.remove, *plan.forget)], folders=folders_now)
        run.report(removed=len(plan.remove))
        run.rename(plan.rename)
        run.encode([*plan.reencode, *plan.add])
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


def content_hash(content: bytes) -> bytes:
    """BLAKE2b, 128 bits."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _list(folders: Sequence[str | Path], settings: Settings) -> tuple[list[bytes], Listing]:
    roots = [os.path.abspath(os.fsencode(folder)) for folder in folders]
    for root in roots:
        if not os.path.lexists(root):
            raise CrosslookError(f"no such folder: {os.fsdecode(root)}")
        if not os.path.isdir(root):
            raise CrosslookError(f"not a folder: {os.fsdecode(root)} (give the folder that holds it)")
    listing = list_images(roots, settings.exclude)
    for folder, reason in listing.unlisted:
        if folder in roots:
            raise CrosslookError(f"cannot read the folder {os.fsdecode(folder)}: {reason}")
    return roots, listing


def _plan(collection: Collection | None, roots: Sequence[bytes], listing: Listing, settings: Settings) -> Plan:
    if collection is None:
        rows, failures = rows_table([]).select(KNOWN_COLUMNS), failures_table([])
    else:
        rows, failures = collection.table(KNOWN_COLUMNS), collection.failures()
    for root in roots:
        if any(is_below(file.path, [root]) for file in listing.files):
            continue
        lost = sum(is_below(path, [root]) for path in rows["path"].to_pylist())
        if lost:
            raise CrosslookError(
                f"{os.fsdecode(root)} holds no images now, but {lost} were indexed there: if it is a drive, mount it; "
                f"if they are gone for good, `search remove {os.fsdecode(root)}`"
            )
    _refuse_nothing(roots, listing)
    return make_plan(
        listing,
        roots,
        rows,
        failures,
        _hash_file,
        max_pixels=settings.max_pixels,
        retry_failed=settings.retry_failed,
    )


def _refuse_nothing(roots: Sequence[bytes], listing: Listing) -> None:
    if not listing.files:
        names = ", ".join(os.fsdecode(root) for root in roots)
        raise CrosslookError(f"no images in {names} (looked for {' '.join(sorted(ENDINGS))})")


def _hash_file(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return content_hash(file.read())
    except OSError:
        return None


def _without_nested(folders: Iterable[str]) -> tuple[str, ...]:
    kept: list[str] = []
    for folder in sorted(set(folders)):
        if not is_below(os.fsencode(folder), [os.fsencode(outer) for outer in kept]):
            kept.append(folder)
    return tuple(kept)


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
            pending = _Pending(
                rows=[
                    replace(
                        snapshot.row(rename.position),
                        path=rename.file.path,
                        size=rename.file.size,
                        mtime_ns=rename.file.mtime_ns,
                    )
                    for rename in some
                ],
                embeddings=[snapshot.embeddings(positions)],
                tokens=[snapshot.tokens(positions)],
                dead=[rename.replaces for rename in some],
            )
            self._commit(pending)
            self.report(moved=len(some))

    def encode(self, encodings: Sequence[Encoding]) -> None:
        """Decode, encode and commit in the plan's order; a stop asked for keeps all that is encoded."""
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
                if self._observer.should_stop():
                    self.progress = replace(self.progress, interrupted=True)
                    break
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
            photo = decode(content, self._encoder.image_size, self._settings.max_pixels)
            row = Row(
                id=0,
                path=file.path,
                size=file.size,
                mtime_ns=file.mtime_ns,
                content_hash=content_hash(content),
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
        prepared = [item.prepared for item in batch if item.prepared is not None]
        if prepared:
            features = self._encoder.encode_images(prepared)
            pending.embeddings.append(features.embeddings)
            pending.tokens.append(features.tokens)
        failures = [item.failure for item in batch if item.failure is not None]
        pending.rows += [item.row for item in batch if item.row is not None]
        pending.failures += failures
        pending.dead += [item.encoding.replaces for item in batch if item.encoding.replaces is not None]
        for failure in failures:
            self._observer.failure(failure.path, failure.error)
        changed = sum(item.encoding.changed for item in batch if item.row is not None)
        self.report(new=len(prepared) - changed, changed=changed, failed=len(failures))

    def _commit(self, pending: _Pending) -> None:
        first = self._writer.manifest.next_id
        rows = [replace(row, id=first + index) for index, row in enumerate(pending.rows)]
        failures = [replace(item, id=first + len(rows) + index) for index, item in enumerate(pending.failures)]
        batch = Batch(rows_table(rows), failures_table(failures), pending.embeddings, pending.tokens)
        self._writer.commit(batch if len(pending) else None, dead=pending.dead)
        if len(self._writer.manifest.segments) > MANY_SEGMENTS:
            self._writer.merge()


def _read_file(file: File) -> tuple[File, bytes]:
    """The content of a file, and what it is now that it is read: it may be newer than the listing."""
    with open(file.path, "rb") as opened:
        status = os.fstat(opened.fileno())
        return File(file.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns), opened.read()


def _failure(file: File, error: str, pixels: int = 0) -> Failure:
    return Failure(0, file.path, file.size, file.mtime_ns, file.ctime_ns, pixels, error)
