"""What of a collection is left below its folders once a plan is carried out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes.collection import folder_prefix
from retrieval.indexing.known import Known
from retrieval.indexing.listing import Listing
from retrieval.indexing.messages import gone_root_line
from retrieval.indexing.places import is_below
from retrieval.indexing.plan import Gone, Plan
from retrieval.location import vanished
from retrieval.progress import Observer


class Remaining:
    """The rows and failures that stay."""

    def __init__(self, known: Known, plan: Plan) -> None:
        self._known = known
        dead = [*(gone.id for gone in plan.remove), *(rename.replaces for rename in plan.rename)]
        self._rows = _others(known.rows, dead)
        self._failures = _others(known.failures, [gone.id for gone in plan.forget])

    def images(self, folder: bytes) -> int:
        """How many of the known images below a folder stay with their path."""
        return int((are_below(self._known.rows, folder) & self._rows).sum())

    def failures(self, folder: bytes) -> list[Gone]:
        """The failures that stay there, in case they are not to."""
        table = self._known.failures.select(["id", "path"])
        kept = table.filter(pa.array(are_below(table, folder) & self._failures))
        return [Gone(row["id"], row["path"]) for row in kept.to_pylist()]


def are_below(table: pa.Table, folder: bytes) -> NDArray[np.bool_]:
    """Which rows of a table are of the folder itself, or of what lies in it."""
    paths = table["path"]
    below = pc.or_(pc.starts_with(paths, folder_prefix(folder)), pc.equal(paths, folder))
    return below.combine_chunks().to_numpy(zero_copy_only=False).astype(np.bool_)


def farewell(folders: Iterable[bytes], plan: Plan, remaining: Remaining, observer: Observer) -> tuple[Set[bytes], Plan]:
    """Of indexed folders that this run does not list and that are gone: those of which nothing is left, since it was
    moved, and the plan, which forgets their failures too. Of the others the observer is told what is left."""
    gone = sorted((folder for folder in folders if is_gone(folder)), reverse=True)
    dropped: set[bytes] = set()
    forget = dict.fromkeys(plan.forget)
    left: dict[bytes, int] = {}
    for folder in gone:  # an inner one before the one around it, which does not count its images again
        inner = [other for other in left if is_below(other, [folder])]
        images = remaining.images(folder) - sum(left[other] for other in inner)
        failures = [failure for failure in remaining.failures(folder) if not is_below(failure.path, inner)]
        if images:
            left[folder] = images
        elif not failures or any(is_below(rename.old, [folder]) for rename in plan.rename):
            dropped.add(folder)
            forget.update(dict.fromkeys(failures))
    for folder in sorted(left):
        observer.note(gone_root_line(folder, left[folder]))
    return dropped, replace(plan, forget=tuple(forget))


def covered_folders(folders: Iterable[bytes], listing: Listing, remaining: Remaining) -> Sequence[bytes]:
    """Without those that lie in another and are looked at with it, or of which nothing is left."""
    covered: list[bytes] = []
    for folder in sorted(set(folders)):
        is_reached = folder in listing.visited and folder not in listing.alone
        is_apart = not is_reached and (not is_gone(folder) or remaining.images(folder) > 0)
        if is_apart or not is_below(folder, covered):
            covered.append(folder)
    return covered


def is_gone(folder: bytes) -> bool:
    """Whether there is no folder there for certain."""
    return vanished(os.path.join(folder, b"."))


def _others(table: pa.Table, ids: list[int]) -> NDArray[np.bool_]:
    return ~np.isin(table["id"].to_numpy(), np.array(ids, np.int64))
