"""Compare folders with a collection and plan what to do. Nothing is changed here."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from retrieval.images import MAX_PIXELS
from retrieval.indexing.known import Known, KnownRow, PathIndex
from retrieval.indexing.listing import File, Listing
from retrieval.indexing.moves import Movable
from retrieval.indexing.places import GONE, LEFT_OUT, STAYS, Absence, Fate, Places
from retrieval.indexing.turns import Turns


@dataclass(frozen=True, slots=True)
class Encoding:
    """A file to encode, and the id of the row (then it has `changed`) or failure that it replaces. may_be_known: its
    size is that of a row that is alive or was removed, or of another file to encode, so that its content may be the
    same; otherwise it is not."""

    file: File
    replaces: int | None = None
    changed: bool = False
    may_be_known: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    """A file whose content is known already, at `position`; its row `replaces`, of the path `old`, becomes this."""

    file: File
    position: int
    replaces: int
    old: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    """A row or failure whose file is no longer there."""

    id: int
    path: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder with how many images in it stay known though they are not there, and why."""

    folder: bytes
    images: int
    why: Absence


@dataclass(frozen=True)
class Plan:
    """What brings a collection up to date: every file listed is in one group, and so is every row whose file is not.

    - `add`: new, or failed before and changed since. Their content may be that of a row that stays (a copy) or was
      removed (it is revived): then `may_be_known` is set.
    - `reencode`: known at this path with other content.
    - `touch`: known at this path with this content, and other times, which the row is to get.
    - `rename`: of a content whose row had a path where no file is now, below these folders or anywhere.
    - `unchanged`, `still_failing`: counts of files to leave alone: size and times are those of their row (a ctime that
      is not known is not compared) or of their failure.
    - `remove`, `forget`: rows and failures whose files are gone from the folders, or left out by a rule.
    - `kept`: count of rows whose files are not there either, in the folders `kept_in`."""

    add: tuple[Encoding, ...] = ()
    reencode: tuple[Encoding, ...] = ()
    rename: tuple[Rename, ...] = ()
    touch: tuple[Rename, ...] = ()
    remove: tuple[Gone, ...] = ()
    forget: tuple[Gone, ...] = ()
    unchanged: int = 0
    still_failing: int = 0
    kept: int = 0
    kept_in: tuple[Kept, ...] = ()


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
    turns: Turns | None = None,
) -> Plan:
    """Compare a listing of `folders` with what a collection holds.

    content_hash: of the file at a path, None when it cannot be read; asked only for files that may have been moved or
    merely touched. vanished: whether nothing is at a path for certain; asked only for what was not listed. forget:
    nothing is kept on a doubt. turns: of the same listing, which this settles.

    A row whose file was not listed, and whose content is not that of a new file either, is removed, but for these:
    - what lies outside the folders, in a place that could not be looked at, behind a broken link, or in an indexed
      folder that the walk did not come to (a hidden one, say), stays as it is;
    - what lies in a folder that is there and has no image in it, at any depth, is kept: a drive may be away; the
      topmost such folder is named;
    - what lies in a folder that was a mount point, and is none or is not there, or in one of which images were kept
      before and which is not there, is kept;
    - what is on another drive than the one that is in its folder now, as far as `Turns` can tell, is kept.
    What a rule leaves out is removed in any case."""
    rows, failures = PathIndex(known.rows), PathIndex(known.failures)
    draft = _Draft()
    for file in listing.files:
        draft.place(file, rows.see(file.path), failures.see(file.path), content_hash, max_pixels, retry_failed)

    places = Places(listing, folders, known, vanished)
    fates: dict[int, Fate] = {}
    elsewhere = array("q")  # of which there may be millions
    for path, offset in rows.unseen():
        fate = places.fate_of(path)
        if fate is STAYS:
            elsewhere.append(offset)
        else:
            fates[offset] = _settled(fate, forget)
    moved, add = _match_moves(rows, fates, elsewhere, draft.add, content_hash, vanished)
    left = [offset for offset in fates if offset not in moved]
    turns = Turns(known, listing, folders) if turns is None else turns
    turns.settle(
        rows.seen_without(encoding.replaces or 0 for encoding in draft.reencode),
        [offset for offset in left if fates[offset] is not LEFT_OUT],
        {offset: rename.file.path for offset, rename in moved.items()},
    )
    kept: Counter[tuple[bytes, Absence]] = Counter()
    remove: list[Gone] = []
    for offset in left:
        kept_in = _kept_in(fates[offset], None if forget else turns.replaced(offset))
        if kept_in is None:
            row = rows.row(offset)
            remove.append(Gone(row["id"], row["path"]))
        else:
            kept[kept_in] += 1
    forgotten: list[Gone] = []
    for path, offset in failures.unseen():
        fate = _settled(places.fate_of(path), forget)
        if fate is not STAYS and _kept_in(fate, turns.replaced(offset, is_failure=True)) not in kept:
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
    """What is to be done with the files listed, before it is known which of the new ones were moved."""

    def __init__(self) -> None:
        self.add: list[Encoding] = []
        self.reencode: list[Encoding] = []
        self.touch: list[Rename] = []
        self.unchanged = 0
        self.still_failing = 0

    def place(
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
    """`exiftool -P` and others change a file in place and set its mtime back; nobody can set a ctime."""
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
    elsewhere: Sequence[int],
    add: Sequence[Encoding],
    content_hash: Callable[[bytes], bytes | None],
    vanished: Callable[[bytes], bool],
) -> tuple[dict[int, Rename], list[Encoding]]:
    """Pair new files with rows of the same content, by where these are in the table. Rows that would be removed are
    taken first, then those that would be kept, then those of files outside the folders that are not there."""
    new = [encoding for encoding in add if encoding.replaces is None]
    gone = [offset for offset, fate in fates.items() if not fate.stays]
    kept = [offset for offset, fate in fates.items() if fate.kept_in is not None]
    sizes = np.array([encoding.file.size for encoding in new], np.int64)
    movable = Movable(rows, [*gone, *kept], elsewhere, sizes, vanished)
    moved: dict[int, Rename] = {}
    rest: list[Encoding] = []
    for encoding in add:
        offset = movable.take(encoding.file, content_hash) if encoding.replaces is None else None
        if offset is None:
            rest.append(encoding)
        else:
            row = rows.row(offset)
            moved[offset] = Rename(encoding.file, row["position"], row["id"], row["path"])
    return moved, rest


def _kept_in(fate: Fate, replaced: bytes | None) -> tuple[bytes, Absence] | None:
    """replaced: the folder in which another drive is."""
    if fate is GONE and replaced is not None:
        return replaced, Absence.REPLACED
    return fate.kept_in


def _flagged(some: Iterable[Encoding], known: Known, encodings: Sequence[Encoding]) -> tuple[Encoding, ...]:
    """Some of the encodings, with those whose content may be known."""
    every = np.array([encoding.file.size for encoding in encodings], np.int64)
    sizes, counts = np.unique(every, return_counts=True)
    ambiguous = {*sizes[counts > 1].tolist(), *sizes[np.isin(sizes, known.rows["size"].to_numpy())].tolist()}
    ambiguous.update(sizes[np.isin(sizes, known.removed_sizes)].tolist())
    return tuple(
        replace(encoding, may_be_known=True) if encoding.file.size in ambiguous else encoding for encoding in some
    )
