"""Deletion vectors: which rows and failures of a segment no longer count.

Segments are immutable, so a deletion vector is a file beside them, which a new one replaces when more entries die. It
is a NumPy array, uint32 [n, 2], ascending: the offset of an entry (rows first, failures after them), and why it is
dead. It is the segment's part `dead`, whose format has the number 1."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexes.checksums import checksum_of
from indexes.errors import DamagedSegmentError, unreadable
from indexes.files import sync_folder, write_durably
from indexes.manifest import PartEntry
from indexes.numbering import EntryOffsets, Mask

REPLACED, REMOVED = 0, 1  # by an entry that holds what is known now; with its file, so that it can be revived


@dataclass(frozen=True)
class Deletions:
    """entries: int64 [n], ascending, the dead ones. removed: bool [n], which of them are rows of files that have
    gone."""

    entries: EntryOffsets
    removed: Mask

    def __len__(self) -> int:
        return len(self.entries)

    def with_more(self, entries: EntryOffsets, removed: Mask) -> Deletions:
        """These and others. An entry that is dead already keeps its reason."""
        if not len(entries):
            return self
        new = ~np.isin(entries, self.entries)
        joined = np.concatenate([self.entries, entries[new]])
        order = np.argsort(joined, kind="stable")
        return Deletions(joined[order], np.concatenate([self.removed, removed[new]])[order])

    def without_reason(self, entries: EntryOffsets) -> Deletions:
        """The same, but these entries need not be revived any more: their content is in a newer row."""
        if not len(entries):
            return self
        return Deletions(self.entries, self.removed & ~np.isin(self.entries, entries))


NONE = Deletions(np.zeros(0, np.int64), np.zeros(0, np.bool_))


def write_deletions(folder: Path, deletions: Deletions, generation: int) -> PartEntry:
    """Write the deletion vector of a segment into its folder. generation: of the commit that will name it."""
    name = f"dead-{generation:06d}.npy"
    reasons = np.where(deletions.removed, REMOVED, REPLACED)
    pairs = np.stack([deletions.entries, reasons], axis=1).astype(np.uint32)
    count, checksum = write_durably(folder / name, lambda file: np.lib.format.write_array(file, pairs))
    sync_folder(folder)
    return PartEntry(name, bytes=count, checksum=checksum)


def read_deletions(folder: Path, part: PartEntry, entry_count: int) -> Deletions:
    """The deletion vector of a segment with so many rows and failures. It is small, so its checksum is always checked.

    Raises `CrosslookError` if it is damaged or cannot be read now, `FileNotFoundError` if it is gone."""
    path = folder / part.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(error, path) from error
    if part.checksum is not None and checksum_of(content) != part.checksum:
        raise DamagedSegmentError(folder, part.file, "its checksum is wrong")
    return parse_deletions(folder, part.file, content, entry_count)


def parse_deletions(folder: Path, name: str, content: bytes, entry_count: int) -> Deletions:
    """The same, of the bytes of a file."""
    try:
        pairs = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # NumPy reads headers as Python, and raises anything on damaged ones
        raise DamagedSegmentError(folder, name, "it is not a deletion vector") from error
    has_pairs = pairs.dtype == np.uint32 and pairs.ndim == 2 and pairs.shape[1] == 2
    entries = pairs[:, 0].astype(np.int64) if has_pairs else np.zeros(0, np.int64)
    if not has_pairs or (np.diff(entries) <= 0).any() or (len(entries) and entries[-1] >= entry_count):
        raise DamagedSegmentError(folder, name, "it does not belong to this segment")
    return Deletions(entries, pairs[:, 1] == REMOVED)
