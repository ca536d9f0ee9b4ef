"""Deletion vectors: which rows and failures of a segment no longer count.

Segments are immutable, so a deletion vector is a file of its own beside them, replaced by a new one when more entries
die. It is a NumPy array, uint32 [n, 2], ascending: the place of an entry (rows first, failures after them), and why it
is dead."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.checksums import checksum_of
from indexes.errors import DamagedSegmentError, unreadable
from indexes.files import sync_folder, write_durably
from indexes.manifest import PartEntry

REPLACED, REMOVED = 0, 1  # by an entry that holds what there is to know; with its file, so that it can be revived


@dataclass(frozen=True)
class Deletions:
    """places: int64 [n], ascending. removed: bool [n], which of them are rows of files that have gone."""

    places: NDArray[np.int64]
    removed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.places)

    def with_more(self, places: NDArray[np.int64], removed: NDArray[np.bool_]) -> Deletions:
        """These and some more. What is dead already keeps its reason."""
        if not len(places):
            return self
        new = ~np.isin(places, self.places)
        both = np.concatenate([self.places, places[new]])
        order = np.argsort(both, kind="stable")
        return Deletions(both[order], np.concatenate([self.removed, removed[new]])[order])

    def without_reason(self, places: NDArray[np.int64]) -> Deletions:
        """The same, where some need not be revived any more: their content is in a newer row."""
        if not len(places):
            return self
        return Deletions(self.places, self.removed & ~np.isin(self.places, places))


NONE = Deletions(np.zeros(0, np.int64), np.zeros(0, np.bool_))


def write_deletions(folder: Path, deletions: Deletions, generation: int) -> PartEntry:
    """Write the deletion vector of a segment into its folder. generation: of the commit that will name it."""
    name = f"dead-{generation:06d}.npy"
    reasons = np.where(deletions.removed, REMOVED, REPLACED)
    pairs = np.stack([deletions.places, reasons], axis=1).astype(np.uint32)
    count, checksum = write_durably(folder / name, lambda file: np.lib.format.write_array(file, pairs))
    sync_folder(folder)
    return PartEntry(name, bytes=count, checksum=checksum)


def read_deletions(folder: Path, part: PartEntry, entries: int) -> Deletions:
    """The deletion vector of a segment of so many rows and failures; it is small, so its checksum is always checked.

    Raises `CrosslookError` where it is damaged or cannot be read now, `FileNotFoundError` where it is gone."""
    path = folder / part.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(error, path) from error
    if part.checksum is not None and checksum_of(content) != part.checksum:
        raise DamagedSegmentError(folder, part.file, "its checksum is wrong")
    return parse_deletions(folder, part.file, content, entries)


def parse_deletions(folder: Path, name: str, content: bytes, entries: int) -> Deletions:
    """The same, of the bytes of a file."""
    try:
        pairs = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # NumPy reads headers as Python, and raises anything on damaged ones
        raise DamagedSegmentError(folder, name, "it is not a deletion vector") from error
    is_whole = pairs.dtype == np.uint32 and pairs.ndim == 2 and pairs.shape[1] == 2
    places = pairs[:, 0].astype(np.int64) if is_whole else np.zeros(0, np.int64)
    if not is_whole or (np.diff(places) <= 0).any() or (len(places) and places[-1] >= entries):
        raise DamagedSegmentError(folder, name, "it does not belong to this segment")
    return Deletions(places, pairs[:, 1] == REMOVED)
