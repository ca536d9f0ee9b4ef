"""Compare folders with a collection and plan what to do. Nothing is changed here."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from indexes.collection import folder_prefix
from retrieval.images import MAX_PIXELS
from retrieval.indexing.listing import File, Listing


@dataclass(frozen=True, slots=True)
class Encoding:
    """A file to encode, and the id of the row (then it has `changed`) or failure that it replaces."""

    file: File
    replaces: int | None = None
    changed: bool = False


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


@dataclass(frozen=True)
class Plan:
    """What brings a collection up to date. `remove` and `forget`: rows and failures whose files are gone.
    `still_failing`: files that failed before and have not changed."""

    add: tuple[Encoding, ...] = ()
    reencode: tuple[Encoding, ...] = ()
    rename: tuple[Rename, ...] = ()
    remove: tuple[Gone, ...] = ()
    forget: tuple[Gone, ...] = ()
    unchanged: int = 0
    still_failing: int = 0


def make_plan(
    listing: Listing,
    folders: Sequence[bytes],
    rows: pa.Table,
    failures: pa.Table,
    content_hash: Callable[[bytes], bytes | None],
    *,
    max_pixels: int = MAX_PIXELS,
    retry_failed: bool = False,
    indexed: Sequence[bytes] = (),
) -> Plan:
    """Compare a listing of `folders` with what a collection holds.

    rows: columns position, id, path, size, mtime_ns, content_hash. failures: as stored. content_hash: of the file at a
    path, None when it cannot be read; asked only for files that may have been moved or merely touched. indexed: folders
    indexed before. What lies outside the folders, in a place that could not be looked at, behind a broken link, or in
    an indexed folder that the walk did not come to (a hidden one, say), stays as it is."""
    apart = [folder for folder in indexed if folder not in listing.visited and os.path.isdir(folder)]
    kept = [*apart, *(folder for folder, _ in listing.unlisted)]

    def is_gone(path: bytes) -> bool:
        return is_below(path, folders) and not is_below(path, kept)

    known, failed = _Known(rows), _Known(failures)
    add: list[Encoding] = []
    reencode: list[Encoding] = []
    rename: list[Rename] = []
    unchanged = still_failing = 0
    for file in listing.files:
        row, failure = known.pop(file.path), failed.pop(file.path)
        if row is not None:
            if file.is_broken_link or (row["size"], row["mtime_ns"]) == (file.size, file.mtime_ns):
                unchanged += 1
            elif row["size"] == file.size and row["content_hash"] == content_hash(file.path):
                rename.append(Rename(file, row["position"], row["id"], row["path"]))
            else:
                reencode.append(Encoding(file, row["id"], changed=True))
        elif failure is not None:
            if _fails_again(file, failure, max_pixels) and not retry_failed:
                still_failing += 1
            else:
                add.append(Encoding(file, failure["id"]))
        else:
            add.append(Encoding(file))

    gone = known.left(is_gone)
    moved, add = _match_moves(gone, add, content_hash)
    renamed = {move.replaces for move in moved}
    return Plan(
        add=tuple(add),
        reencode=tuple(reencode),
        rename=(*rename, *moved),
        remove=tuple(Gone(row["id"], row["path"]) for row in gone if row["id"] not in renamed),
        forget=tuple(Gone(row["id"], row["path"]) for row in failed.left(is_gone)),
        unchanged=unchanged,
        still_failing=still_failing,
    )


def is_below(path: bytes, folders: Sequence[bytes]) -> bool:
    """Whether the path is one of the folders or lies in one of them."""
    return any(path == folder or path.startswith(folder_prefix(folder)) for folder in folders)


class _Known:
    """Rows of a table by path, each taken once. Numbers stay in arrays, since there may be millions of rows."""

    def __init__(self, table: pa.Table) -> None:
        self._columns: dict[str, Any] = {}
        for name in table.column_names:
            column = table[name].combine_chunks()
            is_number = pa.types.is_integer(column.type)
            self._columns[name] = column.to_numpy(zero_copy_only=False) if is_number else column
        self._offsets = {path: offset for offset, path in enumerate(table["path"].to_pylist())}

    def pop(self, path: bytes) -> _KnownRow | None:
        offset = self._offsets.pop(path, None)
        return None if offset is None else _KnownRow(self._columns, offset)

    def left(self, wanted: Callable[[bytes], bool]) -> list[_KnownRow]:
        """The rows never popped whose path is wanted."""
        return [_KnownRow(self._columns, offset) for path, offset in self._offsets.items() if wanted(path)]


class _KnownRow:
    """One row of a table, each value looked up when asked for."""

    __slots__ = ("_columns", "_offset")

    def __init__(self, columns: dict[str, Any], offset: int) -> None:
        self._columns = columns
        self._offset = offset

    def __getitem__(self, name: str) -> Any:
        value = self._columns[name][self._offset]
        return value.as_py() if isinstance(value, pa.Scalar) else int(value)


def _fails_again(file: File, failure: _KnownRow, max_pixels: int) -> bool:
    same = (failure["size"], failure["mtime_ns"], failure["ctime_ns"]) == (file.size, file.mtime_ns, file.ctime_ns)
    allowed_now = failure["pixels"] and failure["pixels"] <= max_pixels
    return same and not allowed_now


def _match_moves(
    gone: Sequence[_KnownRow], add: Sequence[Encoding], content_hash: Callable[[bytes], bytes | None]
) -> tuple[list[Rename], list[Encoding]]:
    """Pair new files with gone rows of the same content."""
    sizes = {row["size"] for row in gone}
    by_hash: dict[bytes, list[_KnownRow]] = defaultdict(list)
    for row in reversed(gone):
        by_hash[row["content_hash"]].append(row)
    moved: list[Rename] = []
    rest: list[Encoding] = []
    for encoding in add:
        candidates = by_hash.get(content_hash(encoding.file.path) or b"") if encoding.file.size in sizes else None
        if candidates and encoding.replaces is None:
            row = candidates.pop()
            moved.append(Rename(encoding.file, row["position"], row["id"], row["path"]))
        else:
            rest.append(encoding)
    return moved, rest
