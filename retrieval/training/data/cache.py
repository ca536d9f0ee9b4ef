"""A cache of arrays that take hours to compute: one folder an entry, named by a hash of what the arrays depend on.

Entries are written under a temporary name and renamed once on disk. The least recently used ones are evicted."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from indexes.files import replace_durably, sync_folder

COMPLETE = "complete"
LIMIT = 100_000_000_000  # bytes
FRESH = 24 * 3600  # seconds: an entry used this recently may be in use now


@dataclass(frozen=True)
class Entry:
    """metadata: what its maker stored with it. arrays: by name, memory-mapped."""

    folder: Path
    metadata: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class RowsWriter:
    """Writes an .npy file, [rows, *shape], row by row; their number need not be known in advance.

    The rows are written, not memory-mapped: on a full disk that raises `OSError`, where a mapping would end the process
    by SIGBUS. A context manager; unless there was an error, its exit writes the number of rows and fsyncs."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str = "<f2") -> None:
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._count = 0
        self._file = path.open("wb", buffering=0)

    def __enter__(self) -> Self:
        self.write_all(self._header())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self.write_all(self._header())  # as long as the first one: NumPy leaves room for more rows
                os.fsync(self._file.fileno())

    def append(self, rows: NDArray[Any]) -> None:
        """rows: [n, *shape]."""
        if rows.shape[1:] != self._shape:
            raise ValueError(f"rows of {rows.shape[1:]}, not {self._shape}")
        self.write_all(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self._count += len(rows)

    def _header(self) -> bytes:
        header = io.BytesIO()
        fields = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count, *self._shape)}
        np.lib.format.write_array_header_1_0(header, fields)
        return header.getvalue()

    def write_all(self, content: bytes) -> None:
        """Write all bytes, though the file system may take fewer at a time. Raises `OSError`, as on a full disk."""
        written = 0
        while written < len(content):
            written += self._file.write(content[written:] if written else content)


def load_entry(cache: Path, key: str, names: Sequence[str]) -> Entry | None:
    """The entry of a key, None if it is missing or damaged. Loading counts as use.

    Raises `CrosslookError` if it cannot be read now."""
    folder = cache / key
    try:
        metadata = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
        if not isinstance(metadata, dict):
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CrosslookError(
            f"cannot read {error.filename or folder}: {error.strerror}; mend that, or name another folder with --cache"
        ) from error
    except Exception:  # NumPy raises many types for a damaged header
        return None
    with suppress(OSError):  # another user's cache, or a read-only one
        os.utime(folder / COMPLETE)
    return Entry(folder, metadata, arrays)


def make_entry(cache: Path, key: str, write: Callable[[Path], dict[str, Any]]) -> None:
    """Make the entry of a key, replacing an existing one. write: puts the arrays into a folder and returns the entry's
    metadata. Raises `CrosslookError` if the cache cannot be written, as on a full disk."""
    with _writing_to(cache):
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=cache))
        try:
            metadata = write(draft)
            with (draft / COMPLETE).open("w", encoding="utf-8") as file:
                json.dump(metadata, file)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(draft)
            if (cache / key).is_dir():
                shutil.rmtree(cache / key, ignore_errors=True)
            else:
                (cache / key).unlink(missing_ok=True)
            os.replace(draft, cache / key)
            sync_folder(cache)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def put_metadata(entry: Entry, metadata: dict[str, Any]) -> None:
    """Give an entry other metadata. An entry that cannot be written keeps what it has."""
    if metadata != entry.metadata:
        with suppress(OSError):
            replace_durably(entry.folder / COMPLETE, json.dumps(metadata).encode())


def make_room(cache: Path, keep: Sequence[str], limit: int = LIMIT) -> int:
    """Evict the least recently used entries until the cache is within its limit, and remove drafts that a kill left.

    Entries used within a day stay, and so do those of the keys `keep`. Returns the size of the cache in bytes."""
    now = time.time()
    entries = sorted(((_last_use(folder), folder) for folder in _folders(cache)), key=lambda entry: entry[0])
    sizes = {folder: _bytes_of(folder) for _, folder in entries}
    total = sum(sizes.values())
    for last_use, folder in entries:
        in_use = folder.name in keep or abs(now - last_use) < FRESH
        if not in_use and (total > limit or not (folder / COMPLETE).exists()):
            shutil.rmtree(folder, ignore_errors=True)
            total -= sizes[folder]
    return total


def _folders(cache: Path) -> list[Path]:
    try:
        return [path for path in cache.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _last_use(folder: Path) -> float:
    """When an entry was last loaded, or a file of a draft was last written; seconds since the epoch."""
    complete = folder / COMPLETE
    times = [0.0]
    for path in [complete] if complete.exists() else [folder, *folder.glob("*.npy")]:
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _bytes_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


@contextmanager
def _writing_to(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise CrosslookError(
            f"cannot write to {cache}: {reason}; make room there, or name another folder with --cache"
        ) from error
