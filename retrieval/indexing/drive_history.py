"""Planning: which drive an image is on, among drives that take turns at one mount point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.folders import is_in_folder
from retrieval.indexing.known import Known, rows_in_folder
from retrieval.indexing.listing import Listing

# (first id, label): images indexed in a folder from this id on are on the drive with this label. The label is the
# drive's identity or, where it has none, "" or a name that begins with "?".
History = tuple[tuple[int, str], ...]
Group = tuple[bytes, str]  # (folder, label): the images of the folder that are on the drive with the label


class DriveHistory:
    """Groups the known images in the roots by folder, and by the drive that was mounted there when they were indexed.
    The folder is the innermost one that is a root, a mount point, or remembered by the collection.

    Decides for every group whether its drive differs from the drive that is mounted now:
    - Drives with the same identity are the same.
    - Drives with different identities are the same if at least half of the group's images are present (a disk that was
      copied to a larger one).
    - If one of the two has no identity, the drives differ if the folder is in a mount point and none of the group's
      images is present.
    - If neither has one, the drive that is mounted now is the one of which most images are present."""

    def __init__(self, known: Known, listing: Listing, roots: Sequence[bytes]) -> None:
        self._known = known
        self._devices = listing.devices
        self._mounts = listing.mounts
        self._histories = dict(sorted(known.devices.items()))
        self._drive_folders = sorted({*roots, *listing.mounts})
        remembered = (folder for folder in self._histories if is_in_folder(folder, roots))
        self._folders = sorted({*self._drive_folders, *remembered})
        self._labels = sorted({"", *(label for history in self._histories.values() for _, label in history)})
        self._codes = self._groups_of(known.rows)
        self._codes_of_failures = self._groups_of(known.failures)
        self._labels_now: dict[bytes, str] = {}
        self._present: dict[Group, int] = {}
        self._others: set[Group] = set()

    def decide_drives(self, present: NDArray[np.int64], absent: Sequence[int], moved: Mapping[int, bytes]) -> None:
        """Decides for every group. present: int64 [n], offsets of rows whose images are present and unchanged. absent:
        offsets of rows whose images are absent. moved: offset -> new path of other rows. All other rows are ignored."""
        staying = [offset for offset, path in moved.items() if self._stays_in_folder(offset, path)]
        self._present = self._count(np.concatenate([present, np.array(staying, np.int64)]))
        counts = self._count(np.array(absent, np.int64))
        for folder in self._folders:
            groups = [(folder, label) for label in self._labels if counts.get((folder, label))]
            self._labels_now[folder] = self._label_now(folder, bool(groups))
            self._others |= {group for group in groups if self._is_another(group, counts[group])}

    def replaced(self, offset: int, is_failure: bool = False) -> bytes | None:
        """The folder, if another drive is mounted there now than the one with this row's or failure's file; else
        None."""
        code = int((self._codes_of_failures if is_failure else self._codes)[offset])
        return self._group(code)[0] if code >= 0 and self._group(code) in self._others else None

    def histories(self, remaining: NDArray[np.bool_], folders_to_remember: Set[bytes]) -> dict[bytes, History]:
        """What to remember about the folders in the roots. remaining: bool [rows], True where the row stays.

        If a folder is not remembered, its images belong to the folder around it from now on."""
        rows = self._known.rows
        ids, labels = rows["id"].to_numpy(), self._labels_of_rows()
        outermost = {folder for folder in self._folders if folder == self._outermost(folder)}
        folders = sorted(outermost | {folder for folder in folders_to_remember if is_in_folder(folder, self._folders)})
        inner = _innermost(rows, folders)
        histories: dict[bytes, History] = {}
        for index, folder in enumerate(folders):
            chosen = np.flatnonzero((inner == index) & remaining)
            if folder in self._drive_folders or len(chosen):
                known = next(outer for outer in reversed(self._folders) if is_in_folder(folder, [outer]))
                histories[folder] = self._history(ids[chosen], labels[chosen], self._labels_now[known])
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

    def _labels_of_rows(self) -> NDArray[np.int64]:
        """int64 [rows]: the index in `_names` of the label of the row's drive. If the drive is mounted now, that is its
        label now."""
        labels, names = self._codes % len(self._labels), self._names()
        for (folder, label), count in self._present.items():
            if count and label != self._labels_now[folder] and (folder, label) not in self._others:
                labels[self._codes == self._code(folder, label)] = names.index(self._labels_now[folder])
        return labels

    def _label_now(self, folder: bytes, lacks_images: bool) -> str:
        """The label of the drive at a folder. lacks_images: whether known images are absent."""
        drive_folder = self._drive_folder(folder)
        now = self._devices.get(drive_folder, "")
        if now:
            return now
        counts = {label: self._present.get((folder, label), 0) for label in self._labels}
        most = max(counts, key=lambda label: counts[label])
        if counts[most]:
            return most
        was_mounted = folder in self._known.mounts and folder not in self._mounts
        if lacks_images and (drive_folder in self._mounts or was_mounted):
            return f"?{self._known.next_id}"
        history = self._histories.get(folder)
        return history[-1][1] if history else ""

    def _is_another(self, group: Group, absent: int) -> bool:
        folder, label = group
        now, present = self._labels_now[folder], self._present.get(group, 0)
        if label == now:
            return False
        if _is_identity(label) == _is_identity(now):
            return present < absent
        return self._drive_folder(folder) in self._mounts and not present

    def _drive_folder(self, folder: bytes) -> bytes:
        """The innermost root or mount point that the folder is in."""
        return next(outer for outer in reversed(self._drive_folders) if is_in_folder(folder, [outer]))

    def _outermost(self, folder: bytes) -> bytes:
        return next(outer for outer in self._folders if is_in_folder(folder, [outer]))

    def _stays_in_folder(self, offset: int, path: bytes) -> bool:
        code = int(self._codes[offset])
        return code >= 0 and is_in_folder(path, [self._group(code)[0]])

    def _count(self, offsets: NDArray[np.int64]) -> dict[Group, int]:
        codes = self._codes[offsets]
        groups, counts = np.unique(codes[codes >= 0], return_counts=True)
        return {self._group(code): count for code, count in zip(groups.tolist(), counts.tolist(), strict=True)}

    def _groups_of(self, table: pa.Table) -> NDArray[np.int64]:
        """int64 [rows]: the code of the row's group; -1 if the row is in none of the folders."""
        ids = table["id"].to_numpy()
        folders, labels = _innermost(table, self._folders), np.full(len(ids), self._labels.index(""), np.int64)
        for folder, history in self._histories.items():
            inside = np.flatnonzero(rows_in_folder(table, folder))
            entries = np.searchsorted([first for first, _ in history], ids[inside], side="right") - 1
            named = np.array([self._labels.index(label) for _, label in history], np.int64)
            labels[inside[entries >= 0]] = named[entries[entries >= 0]]
        return np.where(folders < 0, -1, folders * len(self._labels) + labels)

    def _names(self) -> list[str]:
        """The labels known before, then the new ones."""
        return [*self._labels, *sorted(set(self._labels_now.values()) - set(self._labels))]

    def _code(self, folder: bytes, label: str) -> int:
        return self._folders.index(folder) * len(self._labels) + self._labels.index(label)

    def _group(self, code: int) -> Group:
        return self._folders[code // len(self._labels)], self._labels[code % len(self._labels)]


def _innermost(table: pa.Table, folders: Sequence[bytes]) -> NDArray[np.int64]:
    """int64 [rows]: the index of the innermost of the folders that the row is in, or -1. folders: sorted."""
    indices = np.full(len(table), -1, np.int64)
    for index, folder in enumerate(folders):
        indices[rows_in_folder(table, folder)] = index
    return indices


def _is_identity(label: str) -> bool:
    return label != "" and not label.startswith("?")
