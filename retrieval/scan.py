"""Compare folders with a collection and plan what to do. Nothing is changed here."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import pyarrow as pa

from indexes.collection import folder_prefix
from retrieval.images import ENDINGS, MAX_PIXELS


@dataclass(frozen=True, slots=True)
class File:
    """An image file as the file system describes it. path: absolute. size: bytes. times: nanoseconds."""

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class Listing:
    """The image files below some folders, sorted by path, and the folders that could not be listed, with reasons."""

    files: tuple[File, ...]
    unlisted: tuple[tuple[bytes, str], ...]


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


def list_images(folders: Sequence[bytes], exclude: Sequence[str] = ()) -> Listing:
    """All image files below the folders, by their endings. Hidden files and folders are skipped, symbolic links
    followed, no folder visited twice. exclude: patterns on a name, or on a path relative to its folder."""
    files: dict[bytes, File] = {}
    unlisted: list[tuple[bytes, str]] = []
    visited: set[tuple[int, int]] = set()
    for root in folders:
        for file in _walk(root, tuple(exclude), visited, unlisted):
            files[file.path] = file
    return Listing(tuple(files[path] for path in sorted(files)), tuple(unlisted))


def _walk(
    root: bytes, exclude: tuple[str, ...], visited: set[tuple[int, int]], unlisted: list[tuple[bytes, str]]
) -> Iterator[File]:
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            unlisted.append((folder, error.strerror or str(error)))
            continue
        for entry in found:
            if entry.name.startswith(b".") or _excluded(entry.path, root, exclude):
                continue
            if _is_folder(entry):
                pending.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower().decode("latin-1") in ENDINGS:
                file = _describe(entry)
                if file is not None:
                    yield file


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _describe(entry: os.DirEntry[bytes]) -> File | None:
    """None for pipes, sockets and devices. A broken link is described itself, so that reading it is what fails."""
    try:
        status = entry.stat()
    except OSError:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return None
        if not stat.S_ISLNK(status.st_mode):
            return None
    else:
        if not stat.S_ISREG(status.st_mode):
            return None
    return File(entry.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _excluded(path: bytes, root: bytes, exclude: tuple[str, ...]) -> bool:
    if not exclude:
        return False
    relative = os.fsdecode(os.path.relpath(path, root))
    name = os.path.basename(relative)
    return any(fnmatch(name, pattern) or fnmatch(relative, pattern.rstrip("/")) for pattern in exclude)


def make_plan(
    listing: Listing,
    folders: Sequence[bytes],
    rows: pa.Table,
    failures: pa.Table,
    content_hash: Callable[[bytes], bytes | None],
    *,
    max_pixels: int = MAX_PIXELS,
    retry_failed: bool = False,
) -> Plan:
    """Compare a listing of `folders` with what a collection holds.

    rows: columns position, id, path, size, mtime_ns, content_hash. failures: as stored. content_hash: of the file at a
    path, None when it cannot be read; asked only for files that may have been moved or merely touched. What lies
    outside the folders, or in a folder that could not be listed, stays as it is."""
    known, failed = _Known(rows), _Known(failures)
    add: list[Encoding] = []
    reencode: list[Encoding] = []
    rename: list[Rename] = []
    unchanged = still_failing = 0
    for file in listing.files:
        row, failure = known.pop(file.path), failed.pop(file.path)
        if row is not None:
            if (row["size"], row["mtime_ns"]) == (file.size, file.mtime_ns):
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

    gone = known.left(lambda path: _is_gone(path, folders, listing))
    moved, add = _match_moves(gone, add, content_hash)
    renamed = {move.replaces for move in moved}
    return Plan(
        add=tuple(add),
        reencode=tuple(reencode),
        rename=(*rename, *moved),
        remove=tuple(Gone(row["id"], row["path"]) for row in gone if row["id"] not in renamed),
        forget=tuple(
            Gone(row["id"], row["path"]) for row in failed.left(lambda path: _is_gone(path, folders, listing))
        ),
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


def _is_gone(path: bytes, folders: Sequence[bytes], listing: Listing) -> bool:
    return is_below(path, folders) and not is_below(path, [folder for folder, _ in listing.unlisted])


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
