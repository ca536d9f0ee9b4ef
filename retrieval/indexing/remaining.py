"""Planning: what remains of each folder after a plan is carried out, and which folders the collection remembers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.folders import is_in_folder
from retrieval.indexing.known import Known, rows_in_folder
from retrieval.indexing.listing import Listing
from retrieval.indexing.messages import gone_root_line, lost_line
from retrieval.indexing.plan import Gone, Plan
from retrieval.location import vanished
from retrieval.progress import Observer


class Remaining:
    """The rows and failures that keep their path. known: what the collection holds before the run."""

    def __init__(self, known: Known, plan: Plan) -> None:
        self.known = known
        dead = [*(gone.id for gone in plan.remove), *(rename.replaces for rename in plan.rename)]
        self._rows = _without(known.rows, dead)
        self._failures = _without(known.failures, [gone.id for gone in plan.forget])

    @property
    def rows(self) -> NDArray[np.bool_]:
        """bool [known rows]: True where the row stays."""
        return self._rows

    def images(self, folder: bytes) -> int:
        """How many rows stay in a folder and its subfolders."""
        return int((rows_in_folder(self.known.rows, folder) & self._rows).sum())

    def failures(self, folder: bytes) -> list[Gone]:
        """The failures that stay in a folder and its subfolders, as a plan forgets them."""
        table = self.known.failures.select(["id", "path"])
        kept = table.filter(pa.array(rows_in_folder(table, folder) & self._failures))
        return [Gone(row["id"], row["path"]) for row in kept.to_pylist()]


def drop_moved_folders(
    folders: Iterable[bytes], plan: Plan, remaining: Remaining, observer: Observer, is_repair: bool = False
) -> tuple[Set[bytes], Plan]:
    """Drops the indexed folders that are gone and whose images were all moved to other folders.

    folders: indexed folders that this run does not list. Returns the dropped ones, and the plan, which forgets their
    failures too. Tells the observer about the other folders that are gone.

    A gone folder stays if nothing of it was moved: its images may be lost with a damaged segment, and are embedded
    again when the folder is back. In a repair every folder stays, since any may have lost images."""
    unlisted_folders = list(folders)
    dropped_folders: set[bytes] = set()
    forget = dict.fromkeys(plan.forget)
    images_left: dict[bytes, int] = {}
    # An inner folder comes before its parent, which does not count the inner one's images again.
    for folder in sorted(filter(is_gone, unlisted_folders), reverse=True):
        inner_folders = [inner for inner in images_left if is_in_folder(inner, [folder])]
        images = remaining.images(folder) - sum(images_left[inner] for inner in inner_folders)
        if images or is_repair or not any(is_in_folder(rename.old, [folder]) for rename in plan.rename):
            images_left[folder] = images
        else:
            dropped_folders.add(folder)
            failures = remaining.failures(folder)
            failures = [failure for failure in failures if not is_in_folder(failure.path, inner_folders)]
            forget.update(dict.fromkeys(failures))
    for folder in sorted(unlisted_folders):
        if images_left.get(folder):
            observer.note(gone_root_line(folder, images_left[folder]))
        if folder not in dropped_folders and (is_repair or images_left.get(folder) == 0):
            observer.note(lost_line(folder))
    return dropped_folders, replace(plan, forget=tuple(forget))


def covered_folders(folders: Iterable[bytes], listing: Listing, plan: Plan, remaining: Remaining) -> Sequence[bytes]:
    """The folders that a collection covers. A folder inside another one is left out if it was listed with that one, or
    if it is gone together with all its images."""
    covered: list[bytes] = []
    for folder in sorted(set(folders)):
        is_reached = folder in listing.visited and folder not in listing.alone
        is_lost = is_gone(folder) and not remaining.images(folder) and _had_entries(folder, plan)
        if not (is_reached or is_lost) or not is_in_folder(folder, covered):
            covered.append(folder)
    return covered


def lost_folders(
    covered: Sequence[bytes], roots: Sequence[bytes], listing: Listing, remaining: Remaining, is_repair: bool
) -> list[bytes]:
    """The indexed folders in the roots whose images may be lost and cannot be embedded now: missing folders with no
    rows left and, in a repair, roots without an image."""
    candidates = [folder for folder in covered if folder in remaining.known.folders and is_in_folder(folder, roots)]
    missing_folders = [folder for folder in candidates if is_gone(folder) and not remaining.images(folder)]
    if not is_repair:
        return missing_folders
    empty_roots = (
        folder
        for folder in candidates
        if folder in roots and not any(is_in_folder(file.path, [folder]) for file in listing.files)
    )
    return [*missing_folders, *empty_roots]


def mounts_to_remember(
    roots: Sequence[bytes], listing: Listing, covered: Sequence[bytes], remaining: Remaining, forget: bool
) -> Set[bytes]:
    """The mount points that were listed, the known ones outside the roots, and the former mount points that still have
    rows, unless `forget`."""
    known_mounts = [mount for mount in remaining.known.mounts if is_in_folder(mount, covered)]
    unlisted_mounts = [mount for mount in known_mounts if not is_in_folder(mount, roots)]
    former_mounts = [] if forget else [mount for mount in known_mounts if remaining.images(mount)]
    return {*unlisted_mounts, *former_mounts, *listing.mounts}


def _had_entries(folder: bytes, plan: Plan) -> bool:
    old_paths = (*(gone.path for gone in (*plan.remove, *plan.forget)), *(rename.old for rename in plan.rename))
    return any(is_in_folder(path, [folder]) for path in old_paths)


def is_gone(folder: bytes) -> bool:
    """Whether a folder at this path certainly does not exist."""
    return vanished(os.path.join(folder, b"."))


def _without(table: pa.Table, ids: list[int]) -> NDArray[np.bool_]:
    """bool [rows]: False for the rows with these ids."""
    return ~np.isin(table["id"].to_numpy(), np.array(ids, np.int64))
