"""Faults of a captions file, said in one line: the file, the place in it, the reason and the remedy."""

from __future__ import annotations

from pathlib import Path

from indexes.errors import CrosslookError


def fault(source: Path, reason: str, where: str = "") -> CrosslookError:
    place = f"{source}, {where}" if where else str(source)
    return CrosslookError(" ".join(f"{place}: {reason}".splitlines()))


class CannotRead(CrosslookError):
    """An image or the captions of one cannot be read now. reason: why, without a name, by which such files are
    counted."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(str(fault(path, f"{self.reason}: {remedy}")))


def cannot_read(path: Path, error: OSError | MemoryError, remedy: str) -> CannotRead:
    """What the system said when a file was read."""
    if isinstance(error, MemoryError):
        return CannotRead(path, "needs more memory than is free", "start again when there is more")
    return CannotRead(path, f"cannot be read ({error.strerror or error})", remedy)


def quoted(name: str) -> str:
    """A name from the file for a message: short, and with line breaks and broken Unicode escaped."""
    return repr(name if len(name) <= 120 else name[:117] + "...")
