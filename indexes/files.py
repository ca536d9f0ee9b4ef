"""Durable writes: a file is complete on disk before anything names it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from indexes.checksums import ChecksummedFile
from indexes.errors import CrosslookError

DRAFT = ".new"  # ends the names of unfinished files and folders, which the next writer removes


def write_durably(path: Path, write: Callable[[IO[bytes]], object]) -> tuple[int, str]:
    """Create `path` with what `write` puts into the open file, and sync it. Returns its bytes and their checksum."""
    with path.open("wb") as file:
        summed = ChecksummedFile(file)
        write(summed)  # type: ignore[arg-type]
        file.flush()
        sync_file(file.fileno())
    return summed.bytes, summed.checksum


def replace_durably(path: Path, content: bytes) -> None:
    """Replace `path` in one step: readers see the old content or the new, also after a crash."""
    draft = path.with_name(path.name + DRAFT)
    draft.write_bytes(content)
    put_durably(draft, path)


def put_durably(draft: Path, path: Path) -> None:
    """Move a file that is already written to `path`, in one step."""
    with draft.open("rb+") as file:
        sync_file(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


def sync_file(descriptor: int) -> None:
    """fsync an open file, so that its content survives a loss of power."""
    if sys.platform == "darwin":  # where fsync leaves the content in the drive's own cache
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError:  # a file system that does not know it, such as a network drive
            pass
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that the names in it survive a crash."""
    if os.name == "nt":  # Windows cannot open folders, and orders renames itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Remove a file that nothing names any more. Where that fails it stays, which does no harm."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


@contextmanager
def reading_from(folder: Path) -> Iterator[None]:
    """Turn a failure to read in `folder` into one line. It says nothing of damage: the files may be well."""
    try:
        yield
    except OSError as error:
        raise CrosslookError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a failure to write in `folder` into one line that says what is still safe."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise CrosslookError(
            f"cannot write to {folder}: {reason}; what was committed before is safe, so mend that and run again"
        ) from error
