"""What a run over some folders has to do: the file system and the collection, looked at together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.recovery import current_binding
from indexes.rows import failures_table, rows_table
from retrieval.images import ENDINGS, MAX_PIXELS
from retrieval.indexing.listing import Listing, list_images
from retrieval.indexing.plan import Plan, is_below, make_plan
from retrieval.location import resolved
from retrieval.progress import SILENT, Interrupted, Observer

COMMIT_ROWS = 512
COMMIT_SECONDS = 30.0
KNOWN_COLUMNS = ("id", "path", "size", "mtime_ns", "content_hash")


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


DEFAULTS = Settings()


@dataclass(frozen=True)
class Survey:
    """plan: what there is to do. folders: what the collection covers once it is done, absolute."""

    plan: Plan
    folders: tuple[str, ...]


def plan_folders(folders: Sequence[str | Path], collection: Path, settings: Settings = DEFAULTS) -> Plan:
    """What `index_folders` would do. Reads only; raises as it does."""
    roots = find_roots(folders)
    known = None if current_binding(collection) is None else Collection.open(collection)
    return survey(roots, known, settings).plan


def find_roots(folders: Sequence[str | Path]) -> list[bytes]:
    """The folders' own paths, through links, so that one folder is indexed under one name.

    Raises `CrosslookError` where there is no such folder."""
    for folder in folders:
        path = os.path.abspath(os.fsencode(folder))
        if not os.path.exists(path):
            raise CrosslookError(f"no such folder: {os.fsdecode(path)}")
        if not os.path.isdir(path):
            raise CrosslookError(f"not a folder: {os.fsdecode(path)} (give the folder that holds it)")
    return [resolved(folder) for folder in folders]


def list_roots(roots: Sequence[bytes], settings: Settings) -> Listing:
    """Raises `CrosslookError` where a root cannot be read."""
    listing = list_images(roots, settings.exclude)
    for folder, reason in listing.unlisted:
        if folder in roots:
            raise CrosslookError(f"cannot read the folder {os.fsdecode(folder)}: {reason}")
    return listing


def survey(
    roots: Sequence[bytes], collection: Collection | None, settings: Settings, observer: Observer = SILENT
) -> Survey:
    """List the roots and compare them with the collection.

    Tells the observer what could not be looked at. Raises `CrosslookError` where a root cannot be read, has no images
    but had some, or where there are none at all; `Interrupted` when the observer asks to stop."""
    listing = list_roots(roots, settings)
    if collection is None:
        rows, failures = rows_table([]).select(KNOWN_COLUMNS), failures_table([])
        before: tuple[str, ...] = ()
    else:
        rows, failures = collection.table(KNOWN_COLUMNS), collection.failures()
        before = collection.manifest.folders
    paths = rows["path"].to_pylist()
    _tell_unlisted(listing, paths, observer)
    _refuse_emptied(roots, listing, paths, settings)
    refuse_nothing(roots, listing)
    plan = make_plan(
        listing,
        roots,
        rows,
        failures,
        _hasher(observer),
        max_pixels=settings.max_pixels,
        retry_failed=settings.retry_failed,
        indexed=[os.fsencode(folder) for folder in before],
    )
    return Survey(plan, _covered([*before, *map(os.fsdecode, roots)], listing))


def _tell_unlisted(listing: Listing, paths: Sequence[bytes], observer: Observer) -> None:
    """A broken link to nothing that is known is nobody's business."""
    for place, reason in listing.unlisted:
        if not os.path.islink(place) or any(is_below(path, [place]) for path in paths):
            observer.failure(place, f"{reason}; what is known there is kept")


def _refuse_emptied(roots: Sequence[bytes], listing: Listing, paths: Sequence[bytes], settings: Settings) -> None:
    """A root that has lost all its images looks like a drive that is not mounted."""
    for root in roots:
        if any(is_below(file.path, [root]) for file in listing.files):
            continue
        lost = sum(is_below(path, [root]) for path in paths)
        if lost:
            remedy = "every image is excluded" if settings.exclude else "if it is a drive, mount it"
            raise CrosslookError(
                f"{os.fsdecode(root)} holds no images now, but {lost} were indexed there: {remedy}; if they are gone "
                f"for good, `search remove {os.fsdecode(root)}`"
            )


def refuse_nothing(roots: Sequence[bytes], listing: Listing) -> None:
    """Raises `CrosslookError` unless there is an image."""
    if not listing.files:
        names = ", ".join(os.fsdecode(root) for root in roots)
        raise CrosslookError(f"no images in {names} (looked for {' '.join(sorted(ENDINGS))})")


def _hasher(observer: Observer) -> Callable[[bytes], bytes | None]:
    """The content hash of a file, None when it cannot be read, BLAKE2b with 128 bits."""

    def content_hash(path: bytes) -> bytes | None:
        if observer.should_stop():
            raise Interrupted
        try:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, new_hash).digest()
        except OSError:
            return None

    return content_hash


def new_hash() -> hashlib.blake2b:
    """What content is hashed with."""
    return hashlib.blake2b(digest_size=16)


def _covered(folders: Iterable[str], listing: Listing) -> tuple[str, ...]:
    """Without those that lie in another and are looked at with it."""
    kept: list[str] = []
    for folder in sorted(set(folders)):
        path = os.fsencode(folder)
        outer = is_below(path, [os.fsencode(each) for each in kept])
        if not (outer and (path in listing.visited or not os.path.isdir(path))):
            kept.append(folder)
    return tuple(kept)
