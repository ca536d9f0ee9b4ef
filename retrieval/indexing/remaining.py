"""What of a collection is left below its folders once a plan is carried out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval.indexing.known import Known, are_below
from retrieval.indexing.listing import Listing
from retrieval.indexing.messages import gone_root_line, lost_line
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

    @property
    def rows(self) -> NDArray[np.bool_]:
        """Which of the known rows stay."""
        return self._rows

    def images(self, folder: bytes) -> int:
        """How many of the known images below a folder stay with their path."""
        return int((are_below(self._known.rows, folder) & self._rows).sum())

    def failures(self, folder: bytes) -> list[Gone]:
        """The failures that stay there, in case they are not to."""
        table = self._known.failures.select(["id", "path"])
        kept = table.filter(pa.array(are_below(table, folder) & self._failures))
        return [Gone(row["id"], row["path"]) for row in kept.to_pylist()]


def farewell(
    folders: Iterable[bytes], plan: Plan, remaining: Remaining, observer: Observer, is_repair: bool = False
) -> tuple[Set[bytes], Plan]:
    """Of indexed folders that this run does not list and that are gone: those whose images were all moved elsewhere,
    and the plan, which forgets their failures too. The observer is told of the others.

    One of which nothing is left for another reason stays: its images may be lost with a damaged segment, and be
    embedded when it is back. So does every one in a repair, which may have lost some of them."""
    outside = list(folders)
    dropped: set[bytes] = set()
    forget = dict.fromkeys(plan.forget)
    left: dict[bytes, int] = {}
    for folder in sorted(filter(is_gone, outside), reverse=True):  # an inner one before the one around it, which does
        inner = [other for other in left if is_below(other, [folder])]  # not count its images again
        images = remaining.images(folder) - sum(left[other] for other in inner)
        if images or is_repair or not any(is_below(rename.old, [folder]) for rename in plan.rename):
            left[folder] = images
        else:
            dropped.add(folder)
            failures = remaining.failures(folder)
            forget.update(dict.fromkeys(failure for failure in failures if not is_below(failure.path, inner)))
    for folder in sorted(outside):
        if left.get(folder):
            observer.note(gone_root_line(folder, left[folder]))
        if folder not in dropped and (is_repair or left.get(folder) == 0):
            observer.note(lost_line(folder))
    return dropped, replace(plan, forget=tuple(forget))


def covered_folders(folders: Iterable[bytes], listing: Listing, plan: Plan, remaining: Remaining) -> Sequence[bytes]:
    """Without those that lie in another and are looked at with it, or of which all has left."""
    covered: list[bytes] = []
    for folder in sorted(set(folders)):
        is_reached = folder in listing.visited and folder not in listing.alone
        has_left = is_gone(folder) and not remaining.images(folder) and _lost_some(folder, plan)
        if not (is_reached or has_left) or not is_below(folder, covered):
            covered.append(folder)
    return covered


def _lost_some(folder: bytes, plan: Plan) -> bool:
    old = (*(gone.path for gone in (*plan.remove, *plan.forget)), *(rename.old for rename in plan.rename))
    return any(is_below(path, [folder]) for path in old)


def is_gone(folder: bytes) -> bool:
    """Whether there is no folder there for certain."""
    return vanished(os.path.join(folder, b"."))


def _others(table: pa.Table, ids: list[int]) -> NDArray[np.bool_]:
    return ~np.isin(table["id"].to_numpy(), np.array(ids, np.int64))
