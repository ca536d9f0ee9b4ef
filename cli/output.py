"""How things are printed: paths with odd names, numbers, colour."""

from __future__ import annotations

import os
import sys
import unicodedata
from typing import TextIO

DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def write_line(text: str, end: str = "\n") -> None:
    """Print to stdout; undecodable bytes of file names come out as they are. A reader that has stopped reading, such as
    `head`, has what it wants: then the command ends well."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(os.fsencode(text + end))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def note(text: str) -> None:
    """Chatter, on stderr."""
    print(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    """Control characters, undecodable bytes and changes of writing direction escaped, so that a line stays a line and a
    terminal is not commanded; a backslash is doubled, so that nothing looks like something else."""
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in DIRECTIONS:
        return repr(character)[1:-1]
    return character


def wants_colour(stream: TextIO) -> bool:
    """On a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """A share of 0 to 1 for people: 16%."""
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"


def worth(score: float, match: float | None) -> str:
    """How good a result is: its match where there is one, else its score."""
    return f"{score:.3f}" if match is None else percent(match)


def size(count: float) -> str:
    """Bytes for people: 218 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
