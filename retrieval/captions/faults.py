"""Faults of a captions file, said in one line: the file, the place in it, the reason and the remedy."""

from __future__ import annotations

from pathlib import Path

from indexes.errors import CrosslookError


def fault(source: Path, reason: str, where: str = "") -> CrosslookError:
    place = f"{source}, {where}" if where else str(source)
    return CrosslookError(" ".join(f"{place}: {reason}".splitlines()))


def quoted(name: str) -> str:
    """A name from the file for a message: short, and with line breaks and broken Unicode escaped."""
    return repr(name if len(name) <= 120 else name[:117] + "...")
