"""Which of the drives that are in one place by turns an image is on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval.indexing.known import Known, are_below
from retrieval.indexing.listing import Listing
from retrieval.indexing.places import is_below

# Which drive was in a folder: from each id on, the images that were indexed there are on the drive of this label, which
# is its identity or, where it has none, "" or one that begins with "?".
History = tuple[tuple[int, str], ...]
Group = tuple[bytes, str]  # the images of a folder that are on the drive of a label


class Turns:
    """The images known below the roots, grouped by folder (a root, a mount point, or one that the collection remembers,
    the innermost around the image) and by the drive that was there when they were indexed.

    Of each group is decided once whether its drive is another than the one that is there now. Both are the same where
    their identities are. Where these differ they are the same all the same (a disk that was copied to a larger one) if
    at least half of the group's images are still there. Where one has no identity, a mount point holds another drive
    when none of the group's images is there; where neither has, the drive is the one of which most is there."""

    def __init__(self, known: Known, listing: Listing, roots: Sequence[bytes]) -> None:
        self._known = known
        self._devices = listing.devices
        self._mounts = listing.mounts
        self._histories = dict(sorted(known.devices.items()))
        self._places = sorted({*roots, *listing.mounts})
        remembered = (folder for folder in self._histories if is_below(folder, roots))
        self._folders = sorted({*self._places, *remembered})
        self._labels = sorted({"", *(label for history in self._histories.values() for _, label in history)})
        self._codes = self._groups_of(known.rows)
        self._codes_of_failures = self._groups_of(known.failures)
        self._now: dict[bytes, str] = {}
        self._present: dict[Group, int] = {}
        self._others: set[Group] = set()

    def settle(self, present: NDArray[np.int64], absent: Sequence[int], moved: Mapping[int, bytes]) -> None:
        """Decide. present: where rows are in the table whose images are there as they were; absent: those that are not
        there; moved: new paths of others. Rows in none of these say nothing."""
        within = [offset for offset, path in moved.items() if self._is_within(offset, path)]
        self._present = self._count(np.concatenate([present, np.array(within, np.int64)]))
        counts = self._count(np.array(absent, np.int64))
        for folder in self._folders:
            groups = [(folder, label) for label in self._labels if counts.get((folder, label))]
            self._now[folder] = self._label_now(folder, bool(groups))
            self._others |= {group for group in groups if self._is_another(group, counts[group])}

    def replaced(self, offset: int, is_failure: bool = False) -> bytes | None:
        """The folder in which another drive is than the one with this row's or failure's file; None where none is."""
        code = int((self._codes_of_failures if is_failure else self._codes)[offset])
        return self._group(code)[0] if code >= 0 and self._group(code) in self._others else None

    def histories(self, remaining: NDArray[np.bool_], lasting: Set[bytes]) -> dict[bytes, History]:
        """What is to be remembered of the folders below the roots. remaining: which rows stay. lasting: folders that
        are to be remembered; the images of others are those of the folder around them from now on."""
        rows = self._known.rows
        ids, labels = rows["id"].to_numpy(), self._labels_now()
        folders = [folder for folder in self._folders if folder in lasting or folder == self._outermost(folder)]
        folders = sorted({*folders, *(folder for folder in lasting if is_below(folder, self._folders))})
        inner = _innermost(rows, folders)
        histories: dict[bytes, History] = {}
        for index, folder in enumerate(folders):
            chosen = np.flatnonzero((inner == index) & remaining)
            if folder in self._places or len(chosen):
                now = self._now[next(outer for outer in reversed(self._folders) if is_below(folder, [outer]))]
                histories[folder] = self._history(ids[chosen], labels[chosen], now)
        return histories

    def _history(self, ids: NDArray[np.int64], labels: NDArray[np.int64], now: str) -> History:
        order = np.argsort(ids)
        ids, labels = ids[order], labels[order]
        starts = np.flatnonzero(np.diff(labels, prepend=-1))
        names = self._names()
        history = [(int(ids[start]), names[int(labels[start])]) for start in starts]
        if not history or history[-1][1] != now:
            history.append((self._known.next_id, now))
        return tuple(history)

    def _labels_now(self) -> NDArray[np.int64]:
        """Of each row, which of the names is that of its drive: the one of now where the drive is the same."""
        labels, names = self._codes % len(self._labels), self._names()
        for (folder, label), count in self._present.items():
            if count and label != self._now[folder] and (folder, label) not in self._others:
                labels[self._codes == self._code(folder, label)] = names.index(self._now[folder])
        return labels

    def _label_now(self, folder: bytes, lacks_some: bool) -> str:
        """Of the drive at a folder. lacks_some: whether images known there are not there."""
        place = next(place for place in reversed(self._places) if is_below(folder, [place]))
        now = self._devices.get(place, "")
        if now:
            return now
        counts = {label: self._present.get((folder, label), 0) for label in self._labels}
        most = max(counts, key=lambda label: counts[label])
        if counts[most]:
            return most
        was_mounted = folder in self._known.mounts and folder not in self._mounts
        if lacks_some and (place in self._mounts or was_mounted):
            return f"?{self._known.next_id}"
        history = self._histories.get(folder)
        return history[-1][1] if history else ""

    def _is_another(self, group: Group, absent: int) -> bool:
        folder, label = group
        now, present = self._now[folder], self._present.get(group, 0)
        if label == now:
            return False
        if _is_identity(label) == _is_identity(now):
            return present < absent
        place = next(place for place in reversed(self._places) if is_below(folder, [place]))
        return place in self._mounts and not present

    def _outermost(self, folder: bytes) -> bytes:
        return next(outer for outer in self._folders if is_below(folder, [outer]))

    def _is_within(self, offset: int, path: bytes) -> bool:
        code = int(self._codes[offset])
        return code >= 0 and is_below(path, [self._group(code)[0]])

    def _count(self, offsets: NDArray[np.int64]) -> dict[Group, int]:
        codes = self._codes[offsets]
        groups, counts = np.unique(codes[codes >= 0], return_counts=True)
        return {self._group(code): count for code, count in zip(groups.tolist(), counts.tolist(), strict=True)}

    def _groups_of(self, table: pa.Table) -> NDArray[np.int64]:
        """The code of each row's group, -1 where it lies outside."""
        ids = table["id"].to_numpy()
        folders, labels = _innermost(table, self._folders), np.full(len(ids), self._labels.index(""), np.int64)
        for folder, history in self._histories.items():
            below = np.flatnonzero(are_below(table, folder))
            entries = np.searchsorted([first for first, _ in history], ids[below], side="right") - 1
            named = np.array([self._labels.index(label) for _, label in history], np.int64)
            labels[below[entries >= 0]] = named[entries[entries >= 0]]
        return np.where(folders < 0, -1, folders * len(self._labels) + labels)

    def _names(self) -> list[str]:
        """The labels, with those that are new."""
        return [*self._labels, *sorted(set(self._now.values()) - set(self._labels))]

    def _code(self, folder: bytes, label: str) -> int:
        return self._folders.index(folder) * len(self._labels) + self._labels.index(label)

    def _group(self, code: int) -> Group:
        return self._folders[code // len(self._labels)], self._labels[code % len(self._labels)]


def _innermost(table: pa.Table, folders: Sequence[bytes]) -> NDArray[np.int64]:
    """Which of the folders, sorted, is the innermost around each row; -1 where none is."""
    places = np.full(len(table), -1, np.int64)
    for index, folder in enumerate(folders):
        places[are_below(table, folder)] = index
    return places


def _is_identity(label: str) -> bool:
    return label != "" and not label.startswith("?")
