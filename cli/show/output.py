"""Printing: lines, paths with odd names, numbers, colour."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import TextIO

from cli.process.streams import on_terminal, say, silence, unwritable
from indexes.errors import CrosslookError

QUOTED = re.compile(r"(\$'(?:[ -&(-\[\]-~]|\\[ -~])*')")
DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def write_line(text: str, end: str = "\n") -> None:
    """Print to stdout; undecodable bytes of file names stay as they are. If the reader has stopped, as `head` does, the
    command ends with status 0. Raises `CrosslookError` if stdout is closed or full."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(encoded(text + end))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        silence(sys.stdout)
        sys.exit(0)
    except (OSError, ValueError) as error:
        silence(sys.stdout)
        raise CrosslookError(unwritable(error)) from error


def encoded(text: str) -> bytes:
    """Text as bytes for stdout: file names as their own bytes in any locale, other text that is not Unicode escaped."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return b"".join(_encoded(character) for character in text)


def _encoded(character: str) -> bytes:
    try:
        return character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return character.encode("utf-8", "backslashreplace")


def write_file(path: Path, text: str) -> None:
    """Write a file of the user's. Raises `CrosslookError` with its name, which the error of a full disk lacks."""
    try:
        path.write_text(text, "utf-8", "backslashreplace")
    except OSError as error:
        raise CrosslookError(f"cannot write {path}: {error.strerror or error}") from error


def note(text: str) -> None:
    """Print one line of chatter on stderr; it is dropped if nobody can read it."""
    say(printable(text))


def json_line(record: dict[str, object]) -> str:
    """One line of JSON, with non-ASCII text unescaped if possible."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a name that is not Unicode: escaped lone surrogates stand for its bytes
        text = json.dumps(record)
    return text


def printable(text: str) -> str:
    """Text with control characters, undecodable bytes and changes of writing direction escaped, so that a line stays a
    line and no name can command the terminal. Backslashes are doubled, so that the escapes are unambiguous. Text quoted
    for a shell as `$'...'` has no such characters and stays as it is."""
    parts = QUOTED.split(text)
    return "".join(part if index % 2 else "".join(map(_escaped, part)) for index, part in enumerate(parts))


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in DIRECTIONS:
        return repr(character)[1:-1]
    return character


def wants_colour(stream: TextIO) -> bool:
    """Whether to print colours: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return on_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """The count with its noun. nouns: the plural, if it is not `noun` with an s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def percent(share: float) -> str:
    """A share of 0 to 1 for people: 16%."""
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"


def worth(score: float, match: float | None) -> str:
    """How good a result is: its match if it has one, else its score."""
    return f"{score:.3f}" if match is None else percent(match)


def size(count: float) -> str:
    """Bytes for people: 218 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
