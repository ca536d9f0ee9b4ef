"""One-line errors about captions and their images: the file, the position in it, the reason and the remedy."""

from __future__ import annotations

from pathlib import Path

from indexes.errors import CrosslookError


def error_in(source: Path, reason: str, where: str = "") -> CrosslookError:
    """An error in a source, to raise. where: the position in it."""
    location = f"{source}, {where}" if where else str(source)
    return CrosslookError(" ".join(f"{location}: {reason}".splitlines()))


class CannotRead(CrosslookError):
    """An image, or the captions of one, cannot be read now. reason: without the file's name, so that equal reasons can
    be counted."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(str(error_in(path, f"{self.reason}: {remedy}")))


def cannot_read(path: Path, error: OSError | MemoryError, remedy: str) -> CannotRead:
    """The error for an `OSError` of reading a file."""
    if isinstance(error, MemoryError):
        return CannotRead(path, "needs more memory than is free", "start again when there is more")
    return CannotRead(path, f"cannot be read ({error.strerror or error})", remedy)


def quoted(name: str) -> str:
    """A name from the source for a message: shortened, with line breaks and broken Unicode escaped."""
    return repr(name if len(name) <= 120 else name[:117] + "...")
