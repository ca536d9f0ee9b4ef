"""Planning: compare a listing with what a collection holds. Changes nothing."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from retrieval.images import MAX_PIXELS
from retrieval.indexing.drive_history import DriveHistory
from retrieval.indexing.fates import GONE, LEFT_OUT, STAYS, Absence, Fate, Fates
from retrieval.indexing.files import File
from retrieval.indexing.known import Known, KnownRow, PathIndex
from retrieval.indexing.listing import Listing
from retrieval.indexing.moves import Movable
from retrieval.indexing.plan import Encoding, Gone, Kept, Plan, Rename


def make_plan(
    listing: Listing,
    folders: Sequence[bytes],
    known: Known,
    content_hash: Callable[[bytes], bytes | None],
    vanished: Callable[[bytes], bool] = lambda path: False,
    *,
    max_pixels: int = MAX_PIXELS,
    retry_failed: bool = False,
    forget: bool = False,
    drives: DriveHistory | None = None,
) -> Plan:
    """Compares a listing of `folders` with what a collection holds.

    content_hash: returns the hash of the file at a path, or None if it cannot be read. It is called only for files that
    may have been moved or merely touched. vanished: returns True only if the path certainly does not exist. It is
    called only for what was not listed. forget: remove what would be kept. drives: of the same listing; this call makes
    it decide.

    A row whose file was not listed is renamed if a new file has its content. Otherwise:
    - The row is removed if a rule leaves its file out.
    - The row stays as it is if its file is outside the folders, in a folder that could not be listed, behind a broken
      link, or in an indexed folder that the walk did not reach, such as a hidden one.
    - The row is kept, since a drive may be away, if its folder
      - exists and now holds no image at any depth (the topmost such folder is reported), or
      - was a mount point and no longer is, or no longer exists, or
      - no longer exists, and images of it were kept before, or
      - now has another drive mounted, as far as `DriveHistory` can tell.
    - In all other cases the row is removed."""
    rows, failures = PathIndex(known.rows), PathIndex(known.failures)
    draft = _Draft()
    for file in listing.files:
        draft.add_file(file, rows.see(file.path), failures.see(file.path), content_hash, max_pixels, retry_failed)

    absent_fates = Fates(listing, folders, known, vanished)
    fates: dict[int, Fate] = {}
    unreached = array("q")  # there may be millions
    for path, offset in rows.unseen():
        fate = absent_fates.fate_of(path)
        if fate is STAYS:
            unreached.append(offset)
        else:
            fates[offset] = _settled(fate, forget)
    moved, add = _match_moves(rows, fates, unreached, draft.add, content_hash, vanished)
    left = [offset for offset in fates if offset not in moved]
    drives = DriveHistory(known, listing, folders) if drives is None else drives
    drives.decide_drives(
        rows.seen_without(encoding.replaces or 0 for encoding in draft.reencode),
        [offset for offset in left if fates[offset] is not LEFT_OUT],
        {offset: rename.file.path for offset, rename in moved.items()},
    )
    kept: Counter[tuple[bytes, Absence]] = Counter()
    remove: list[Gone] = []
    for offset in left:
        kept_in = _kept_in(fates[offset], None if forget else drives.replaced(offset))
        if kept_in is None:
            row = rows.row(offset)
            remove.append(Gone(row["id"], row["path"]))
        else:
            kept[kept_in] += 1
    forgotten: list[Gone] = []
    for path, offset in failures.unseen():
        fate = _settled(absent_fates.fate_of(path), forget)
        if fate is not STAYS and _kept_in(fate, drives.replaced(offset, is_failure=True)) not in kept:
            forgotten.append(Gone(failures.row(offset)["id"], path))
    return Plan(
        add=_flagged(add, known, (*add, *draft.reencode)),
        reencode=_flagged(draft.reencode, known, (*add, *draft.reencode)),
        rename=tuple(moved.values()),
        touch=tuple(draft.touch),
        remove=tuple(remove),
        forget=tuple(forgotten),
        unchanged=draft.unchanged,
        still_failing=draft.still_failing,
        kept=kept.total(),
        kept_in=tuple(Kept(folder, count, why) for (folder, why), count in sorted(kept.items(), key=lambda k: k[0][0])),
    )


class _Draft:
    """The groups of the listed files, before moved files are told from new ones."""

    def __init__(self) -> None:
        self.add: list[Encoding] = []
        self.reencode: list[Encoding] = []
        self.touch: list[Rename] = []
        self.unchanged = 0
        self.still_failing = 0

    def add_file(
        self,
        file: File,
        row: KnownRow | None,
        failure: KnownRow | None,
        content_hash: Callable[[bytes], bytes | None],
        max_pixels: int,
        retry_failed: bool,
    ) -> None:
        if row is not None:
            if file.is_broken_link or _is_same(file, row):
                self.unchanged += 1
            elif row["size"] == file.size and row["content_hash"] == content_hash(file.path):
                self.touch.append(Rename(file, row["position"], row["id"], row["path"]))
            else:
                self.reencode.append(Encoding(file, row["id"], changed=True))
        elif failure is None:
            self.add.append(Encoding(file))
        elif _fails_again(file, failure, max_pixels) and not retry_failed:
            self.still_failing += 1
        else:
            self.add.append(Encoding(file, failure["id"]))


def _is_same(file: File, row: KnownRow) -> bool:
    """Whether the file is the row's, by size and times. The ctime counts too: `exiftool -P` and others change a file in
    place and set its mtime back, which they cannot do with its ctime."""
    same = (row["size"], row["mtime_ns"]) == (file.size, file.mtime_ns)
    return same and row["ctime_ns"] in (0, file.ctime_ns)


def _fails_again(file: File, failure: KnownRow, max_pixels: int) -> bool:
    same = (failure["size"], failure["mtime_ns"], failure["ctime_ns"]) == (file.size, file.mtime_ns, file.ctime_ns)
    allowed_now = failure["pixels"] and failure["pixels"] <= max_pixels
    return same and not allowed_now


def _settled(fate: Fate, forget: bool) -> Fate:
    return GONE if forget and fate.kept_in is not None else fate


def _match_moves(
    rows: PathIndex,
    fates: dict[int, Fate],
    unreached: Sequence[int],
    add: Sequence[Encoding],
    content_hash: Callable[[bytes], bytes | None],
    vanished: Callable[[bytes], bool],
) -> tuple[dict[int, Rename], list[Encoding]]:
    """Pairs new files with rows of the same content. Returns the renames by the row's offset in the table, and the
    encodings that are left. Rows that would be removed are taken first, then rows that would be kept, then rows of
    files outside the folders that have vanished."""
    new = [encoding for encoding in add if encoding.replaces is None]
    gone = [offset for offset, fate in fates.items() if not fate.stays]
    kept = [offset for offset, fate in fates.items() if fate.kept_in is not None]
    sizes = np.array([encoding.file.size for encoding in new], np.int64)
    movable = Movable(rows, [*gone, *kept], unreached, sizes, vanished)
    moved: dict[int, Rename] = {}
    unpaired: list[Encoding] = []
    for encoding in add:
        offset = movable.take(encoding.file, content_hash) if encoding.replaces is None else None
        if offset is None:
            unpaired.append(encoding)
        else:
            row = rows.row(offset)
            moved[offset] = Rename(encoding.file, row["position"], row["id"], row["path"])
    return moved, unpaired


def _kept_in(fate: Fate, replaced: bytes | None) -> tuple[bytes, Absence] | None:
    """replaced: the folder, if another drive is mounted there now; else None."""
    if fate is GONE and replaced is not None:
        return replaced, Absence.REPLACED
    return fate.kept_in


def _flagged(group: Iterable[Encoding], known: Known, encodings: Sequence[Encoding]) -> tuple[Encoding, ...]:
    """A group of the encodings, with `may_be_known` set if it applies."""
    all_sizes = np.array([encoding.file.size for encoding in encodings], np.int64)
    sizes, counts = np.unique(all_sizes, return_counts=True)
    ambiguous = {*sizes[counts > 1].tolist(), *sizes[np.isin(sizes, known.rows["size"].to_numpy())].tolist()}
    ambiguous.update(sizes[np.isin(sizes, known.removed_sizes)].tolist())
    return tuple(
        replace(encoding, may_be_known=True) if encoding.file.size in ambiguous else encoding for encoding in group
    )
