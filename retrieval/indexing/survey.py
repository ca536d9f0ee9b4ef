"""What a run over some folders has to do: the file system and the collection, looked at together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from indexes.collection import Collection
from indexes.commits import find_commit
from indexes.errors import CrosslookError
from retrieval.images import ENDINGS, MAX_PIXELS
from retrieval.indexing.exclusion import Rules
from retrieval.indexing.known import KNOWN_COLUMNS, NOTHING_KNOWN, Known, are_below
from retrieval.indexing.listing import Listing, list_images, totals
from retrieval.indexing.messages import (
    counted,
    kept_line,
    lost_line,
    passed_over_line,
    quoted,
    removal,
    unmatched_line,
)
from retrieval.indexing.places import is_below
from retrieval.indexing.plan import Plan, make_plan
from retrieval.indexing.remaining import Remaining, covered_folders, farewell, is_gone
from retrieval.indexing.roots import find_roots
from retrieval.indexing.turns import History, Turns
from retrieval.location import vanished
from retrieval.progress import SILENT, Interrupted, Observer

COMMIT_ROWS = 512
COMMIT_SECONDS = 30.0


@dataclass(frozen=True)
class Settings:
    """How to index. exclude: gitignore patterns, which the collection remembers; no_exclude: those that it is to
    remember no longer. max_pixels: of one image to decode. retry_failed: read files again that failed before. repair:
    drop damaged segments. forget: remove images whose folders are empty or not mounted. include_all: look into folders
    of thumbnails, trash and `.nomedia`. A commit is made after `commit_rows` images or `commit_seconds`."""

    exclude: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    retry_failed: bool = False
    repair: bool = False
    commit_rows: int = COMMIT_ROWS
    commit_seconds: float = COMMIT_SECONDS
    no_exclude: tuple[str, ...] = ()
    forget: bool = False
    include_all: bool = False


DEFAULTS = Settings()


@dataclass(frozen=True)
class Survey:
    """plan: what there is to do. What the collection is to remember once it is done: folders, absolute, that it covers;
    excludes: patterns in force; mounts: folders that are mount points, or whose images are kept because they were;
    devices: of roots, mounts and folders whose images are kept, which drive was there from which id on; passed_over:
    of each folder, how many pictures are of formats that are not read, by ending. passed_over_now: of the folders of
    this run together."""

    plan: Plan
    folders: tuple[str, ...]
    excludes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    devices: Mapping[str, History] = field(default_factory=dict)
    passed_over: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    passed_over_now: Mapping[str, int] = field(default_factory=dict)


def plan_folders(folders: Sequence[str | Path], collection: Path, settings: Settings = DEFAULTS) -> Plan:
    """What `index_folders` would do. Reads only; raises as it does."""
    return survey_folders(folders, collection, settings).plan


def survey_folders(
    folders: Sequence[str | Path], collection: Path, settings: Settings = DEFAULTS, observer: Observer = SILENT
) -> Survey:
    """The same with what the collection would remember."""
    known = None if find_commit(collection) is None else Collection.open(collection)
    roots = find_roots(folders, () if known is None else known.manifest.folders)
    return survey(roots, known, settings, observer)


def list_roots(
    roots: Sequence[bytes], settings: Settings, observer: Observer = SILENT, remembered: Sequence[str] = ()
) -> Listing:
    """remembered: excludes of the collection. Raises `CrosslookError` where an exclude is no pattern or is not there to
    be taken back, `Interrupted` when the observer asks to stop."""
    rules = Rules(excludes_in_force(settings, remembered), settings.include_all)
    try:
        return list_images(roots, rules, observer.should_stop)
    except ValueError as error:
        raise CrosslookError(f"--exclude {str(error)!r} is not a gitignore pattern") from error


def excludes_in_force(settings: Settings, remembered: Sequence[str] = ()) -> tuple[str, ...]:
    """Those remembered and the new ones, which come last and so decide first."""
    for pattern in settings.no_exclude:
        if pattern not in remembered:
            known = ", ".join(map(repr, remembered)) or "none"
            raise CrosslookError(f"the collection remembers no exclude {pattern!r} to take back; it remembers {known}")
    old = [pattern for pattern in remembered if pattern not in (*settings.no_exclude, *settings.exclude)]
    return (*old, *dict.fromkeys(settings.exclude))


def survey(
    roots: Sequence[bytes], collection: Collection | None, settings: Settings, observer: Observer = SILENT
) -> Survey:
    """List the roots and compare them with the collection.

    Tells the observer what could not be looked at and what is kept on a doubt. Raises `CrosslookError` where no root
    has an image, or what `list_roots` raises; `Interrupted` when the observer asks to stop."""
    excludes = () if collection is None else collection.manifest.excludes
    counts = {} if collection is None else collection.manifest.passed_over
    listing = list_roots(roots, settings, observer, excludes)
    known = _known(collection)
    _tell_listing(listing, known, settings, observer)
    _refuse_emptied(roots, listing, known, settings)
    turns = Turns(known, listing, roots)
    plan = make_plan(
        listing,
        roots,
        known,
        _hasher(observer),
        _looker(observer),
        max_pixels=settings.max_pixels,
        retry_failed=settings.retry_failed,
        forget=settings.forget,
        turns=turns,
    )
    for kept in plan.kept_in:
        observer.note(kept_line(kept, next(root for root in roots if is_below(kept.folder, [root]))))
    remaining = Remaining(known, plan)
    outside = [folder for folder in known.folders if not is_below(folder, roots)]
    dropped, plan = farewell(outside, plan, remaining, observer, settings.repair)
    others = [folder for folder in known.folders if folder not in dropped]
    covered = covered_folders([*others, *roots], listing, plan, remaining)
    for folder in _lost(covered, roots, listing, known, remaining, settings):
        observer.note(lost_line(folder))
    mounts = _mounts(roots, listing, known, covered, remaining, settings)
    lasting = {*covered, *map(os.fsencode, mounts), *(kept.folder for kept in plan.kept_in)}
    elsewhere = {
        folder: history
        for folder, history in known.devices.items()
        if is_below(folder, covered) and not is_below(folder, roots)
    }
    devices = elsewhere | turns.histories(remaining.rows, lasting)
    folders = tuple(map(os.fsdecode, covered))
    return Survey(
        plan,
        folders,
        excludes_in_force(settings, excludes),
        mounts,
        {os.fsdecode(folder): devices[folder] for folder in sorted(devices)},
        _counts(folders, {**counts, **{os.fsdecode(root): listing.passed_over.get(root, {}) for root in roots}}),
        totals(listing.passed_over.values()),
    )


def _lost(
    covered: Sequence[bytes],
    roots: Sequence[bytes],
    listing: Listing,
    known: Known,
    remaining: Remaining,
    settings: Settings,
) -> list[bytes]:
    """The indexed folders among and below the roots of which images may be lost that cannot be embedded now: those that
    are gone and hold nothing any more and, in a repair, those without an image."""
    candidates = [folder for folder in covered if folder in known.folders and is_below(folder, roots)]
    gone = [folder for folder in candidates if is_gone(folder) and not remaining.images(folder)]
    if not settings.repair:
        return gone
    empty = (
        folder
        for folder in candidates
        if folder in roots and not any(is_below(file.path, [folder]) for file in listing.files)
    )
    return [*gone, *empty]


def _mounts(
    roots: Sequence[bytes],
    listing: Listing,
    known: Known,
    covered: Sequence[bytes],
    remaining: Remaining,
    settings: Settings,
) -> tuple[str, ...]:
    """Those that are mount points now, were not looked at, or were some and still have images."""
    before = [mount for mount in known.mounts if is_below(mount, covered)]
    outside = [mount for mount in before if not is_below(mount, roots)]
    away = [] if settings.forget else [mount for mount in before if remaining.images(mount)]
    return tuple(sorted(map(os.fsdecode, {*outside, *away, *listing.mounts})))


def _counts(folders: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {folder: dict(counts[folder]) for folder in folders if counts.get(folder)}


def _known(collection: Collection | None) -> Known:
    if collection is None:
        return NOTHING_KNOWN
    return Known(
        collection.table(KNOWN_COLUMNS),
        collection.failures(),
        collection.dead(["size"])["size"].to_numpy(),
        tuple(map(os.fsencode, collection.manifest.folders)),
        tuple(map(os.fsencode, collection.manifest.mounts)),
        {os.fsencode(folder): history for folder, history in collection.manifest.devices.items()},
        collection.manifest.next_id,
    )


def _tell_listing(listing: Listing, known: Known, settings: Settings, observer: Observer) -> None:
    """A broken link to nothing that is known is nobody's business."""
    for place, reason in listing.unlisted:
        if not os.path.islink(place) or are_below(known.rows, place).any():
            observer.failure(place, f"{reason}; what is known there is kept")
    for line in listing.notes:
        observer.note(line)
    for pattern in listing.unmatched:
        observer.note(unmatched_line(pattern, is_remembered=pattern not in settings.exclude))


def _refuse_emptied(roots: Sequence[bytes], listing: Listing, known: Known, settings: Settings) -> None:
    """Raises `CrosslookError` where all roots have lost all their images: they look like drives that are not mounted.
    Where some have, the others are worth a run."""
    if listing.files:
        return
    for root in roots:
        lost = int(are_below(known.rows, root).sum())
        if lost and root not in dict(listing.unlisted):
            if settings.forget:
                return
            raise CrosslookError(
                f"{os.fsdecode(root)} holds no images now, but {counted(lost)} indexed there: "
                f"{_remedy(root, listing)}; if they are gone for good, `search index --forget {quoted(root)}` or "
                f"{removal(root)}"
            )
    refuse_nothing(roots, listing)


def _remedy(root: bytes, listing: Listing) -> str:
    if root in listing.left_out:
        return "a .nomedia file leaves it out"
    if any(is_below(folder, [root]) for folder in (*listing.left_out, *listing.occupied)):
        return "every image is excluded"
    return "if it is a drive, mount it"


def refuse_nothing(roots: Sequence[bytes], listing: Listing) -> None:
    """Raises `CrosslookError` unless there is an image."""
    if listing.files:
        return
    for folder, reason in listing.unlisted:
        if folder in roots:
            raise CrosslookError(f"cannot read the folder {os.fsdecode(folder)}: {reason}")
    names = ", ".join(os.fsdecode(root) for root in roots)
    others = passed_over_line(totals(listing.passed_over.values()))
    raise CrosslookError(
        f"no images in {names} (looked for {' '.join(sorted(ENDINGS))})" + (f"; {others}" if others else "")
    )


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


def _looker(observer: Observer) -> Callable[[bytes], bool]:
    def has_vanished(path: bytes) -> bool:
        if observer.should_stop():
            raise Interrupted
        return vanished(path)

    return has_vanished
