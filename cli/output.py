"""How things are printed: paths with odd names, numbers, colour."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def write_line(text: str, end: str = "\n") -> None:
    """Print to stdout; undecodable bytes of file names come out as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write((text + end).encode(sys.stdout.encoding or "utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """Chatter, on stderr."""
    print(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    """Control characters and undecodable bytes escaped, so that a line stays a line and a terminal is not commanded."""
    escaped = (char if char.isprintable() else repr(char)[1:-1] for char in text.replace("\\", "\\\\"))
    return "".join(escaped) if not text.isprintable() else text


def wants_colour(stream: TextIO) -> bool:
    """On a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Bytes for people: 218 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
