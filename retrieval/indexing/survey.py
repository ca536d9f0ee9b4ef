"""Planning: compares folders with the collection. Gives the plan of a run, and what the collection is to remember."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from indexes.collection import Collection
from indexes.commits import find_commit
from indexes.folders import is_in_folder
from retrieval.indexing.content import hash_of_file
from retrieval.indexing.drive_history import DriveHistory, History
from retrieval.indexing.known import NOTHING_KNOWN, Known, known_of, rows_in_folder
from retrieval.indexing.listing import Listing, totals
from retrieval.indexing.messages import kept_line, lost_line, unmatched_line
from retrieval.indexing.plan import Plan
from retrieval.indexing.planning import make_plan
from retrieval.indexing.refusals import refuse_emptied
from retrieval.indexing.remaining import (
    Remaining,
    covered_folders,
    drop_moved_folders,
    lost_folders,
    mounts_to_remember,
)
from retrieval.indexing.roots import excludes_in_force, find_roots, list_roots
from retrieval.indexing.settings import DEFAULT_SETTINGS, Settings
from retrieval.location import vanished
from retrieval.progress import SILENT, Interrupted, Observer


@dataclass(frozen=True)
class Survey:
    """plan: the work of the run. passed_over_now: unread picture files in this run's folders, counted by ending.

    The other fields are what the collection is to remember once the plan is carried out. folders: absolute paths that
    it covers. excludes: patterns in force. mounts: folders that are mount points, or whose images are kept because they
    were. devices: which drive was in a folder from which id on, of roots, mounts and folders whose images are kept.
    passed_over: as `passed_over_now`, by folder."""

    plan: Plan
    folders: tuple[str, ...]
    excludes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    devices: Mapping[str, History] = field(default_factory=dict)
    passed_over: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    passed_over_now: Mapping[str, int] = field(default_factory=dict)


def plan_folders(folders: Sequence[str | Path], collection: Path, settings: Settings = DEFAULT_SETTINGS) -> Plan:
    """The plan that `index_folders` would carry out. Reads only; raises what that raises."""
    return survey_folders(folders, collection, settings).plan


def survey_folders(
    folders: Sequence[str | Path], collection: Path, settings: Settings = DEFAULT_SETTINGS, observer: Observer = SILENT
) -> Survey:
    """The plan, and what the collection would remember."""
    known = None if find_commit(collection) is None else Collection.open(collection)
    roots = find_roots(folders, () if known is None else known.manifest.folders)
    return survey(roots, known, settings, observer)


def survey(
    roots: Sequence[bytes],
    collection: Collection | None,
    settings: Settings,
    observer: Observer = SILENT,
    listing: Listing | None = None,
) -> Survey:
    """Compares the roots with the collection. listing: of the roots, if it was made already.

    Tells the observer which paths could not be read and which absent images are kept. Raises `CrosslookError` if no
    root has an image; what `list_roots` raises; and `Interrupted` if the observer asks to stop."""
    excludes = () if collection is None else collection.manifest.excludes
    counts = {} if collection is None else collection.manifest.passed_over
    listing = list_roots(roots, settings, observer, excludes) if listing is None else listing
    known = NOTHING_KNOWN if collection is None else known_of(collection)
    _tell_listing(listing, known, settings, observer)
    refuse_emptied(roots, listing, known, settings)
    drives = DriveHistory(known, listing, roots)
    plan = make_plan(
        listing,
        roots,
        known,
        _interruptible_hash(observer),
        _interruptible_look(observer),
        max_pixels=settings.max_pixels,
        retry_failed=settings.retry_failed,
        forget=settings.forget,
        drives=drives,
    )
    for kept in plan.kept_in:
        observer.note(kept_line(kept, next(root for root in roots if is_in_folder(kept.folder, [root]))))
    remaining = Remaining(known, plan)
    unlisted_folders = [folder for folder in known.folders if not is_in_folder(folder, roots)]
    dropped_folders, plan = drop_moved_folders(unlisted_folders, plan, remaining, observer, settings.repair)
    other_folders = [folder for folder in known.folders if folder not in dropped_folders]
    covered = covered_folders([*other_folders, *roots], listing, plan, remaining)
    for folder in lost_folders(covered, roots, listing, remaining, settings.repair):
        observer.note(lost_line(folder))
    mounts = mounts_to_remember(roots, listing, covered, remaining, settings.forget)
    folders_to_remember = {*covered, *mounts, *(kept.folder for kept in plan.kept_in)}
    unlisted_histories = {
        folder: history
        for folder, history in known.devices.items()
        if is_in_folder(folder, covered) and not is_in_folder(folder, roots)
    }
    devices = unlisted_histories | drives.histories(remaining.rows, folders_to_remember)
    folders = tuple(map(os.fsdecode, covered))
    return Survey(
        plan,
        folders,
        excludes_in_force(settings, excludes),
        tuple(sorted(map(os.fsdecode, mounts))),
        {os.fsdecode(folder): devices[folder] for folder in sorted(devices)},
        _counts_of(folders, {**counts, **{os.fsdecode(root): listing.passed_over.get(root, {}) for root in roots}}),
        totals(listing.passed_over.values()),
    )


def _counts_of(folders: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {folder: dict(counts[folder]) for folder in folders if counts.get(folder)}


def _tell_listing(listing: Listing, known: Known, settings: Settings, observer: Observer) -> None:
    """Reports the paths that could not be read. Reports a broken link only if the collection has rows below it."""
    for path, reason in listing.unlisted:
        if not os.path.islink(path) or rows_in_folder(known.rows, path).any():
            observer.failure(path, f"{reason}; what is known there is kept")
    for line in listing.notes:
        observer.note(line)
    for pattern in listing.unmatched:
        observer.note(unmatched_line(pattern, is_remembered=pattern not in settings.exclude))


def _interruptible_hash(observer: Observer) -> Callable[[bytes], bytes | None]:
    """Returns a function: path -> content hash, or None if the file cannot be read. It raises `Interrupted` if the
    observer asks to stop."""

    def content_hash(path: bytes) -> bytes | None:
        if observer.should_stop():
            raise Interrupted
        try:
            return hash_of_file(path)
        except OSError:
            return None

    return content_hash


def _interruptible_look(observer: Observer) -> Callable[[bytes], bool]:
    """Returns `vanished`, but it raises `Interrupted` if the observer asks to stop."""

    def has_vanished(path: bytes) -> bool:
        if observer.should_stop():
            raise Interrupted
        return vanished(path)

    return has_vanished
