"""The standard streams, including streams that are closed, full, or no longer read."""

from __future__ import annotations

import errno
import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

STDERR = 2

_terminal: TextIO | None = None  # where chatter goes while other output on stderr is dropped
_lines: list[Callable[[str], None]] = []  # the last one prints lines above the visible progress bar


def debugging() -> bool:
    """Whether `$CROSSLOOK_DEBUG` asks for tracebacks and for the messages of libraries."""
    return os.environ.get("CROSSLOOK_DEBUG", "") not in ("", "0")


def open_standard_streams() -> None:
    """Open the descriptors 0, 1 and 2 if they are closed. Otherwise the next file that is opened would get one of them,
    and libraries would print into it. Reading such a stdin or writing to such a stdout is an error; output to such a
    stderr is dropped."""
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", errors="backslashreplace")


def unwritable(error: Exception) -> str:
    """One line about a stdout that cannot be written to."""
    closed = isinstance(error, ValueError) or getattr(error, "errno", None) == errno.EBADF
    reason = "it is closed" if closed else getattr(error, "strerror", None) or str(error)
    return f"cannot write to standard output: {reason}"


def silence(stream: TextIO) -> None:
    """Drop what a stream has buffered and everything that is written to it later."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def on_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; False if it is closed."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def chatter_stream() -> TextIO | None:
    """Where chatter goes: stderr as it was when the process began."""
    return sys.stderr if _terminal is None else _terminal


def say(line: str) -> None:
    """Write one line of chatter, above a visible progress bar; it is dropped if nobody can read it."""
    if _lines:
        _lines[-1](line)
    else:
        write_chatter(chatter_stream(), line + "\n")


@contextmanager
def lines_through(print_line: Callable[[str], None]) -> Iterator[None]:
    """Let `say` pass its lines to a progress bar."""
    _lines.append(print_line)
    try:
        yield
    finally:
        _lines.remove(print_line)


def write_chatter(stream: TextIO | None, text: str) -> None:
    """Write to a stream that is allowed to fail: it may be closed, full, or without a reader."""
    if stream is None:
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        silence(stream)


def flush_chatter() -> None:
    write_chatter(sys.stderr, "")


def write_chatter_at_once(text: str) -> None:
    """`write_chatter` for a signal handler, which may interrupt a buffered write halfway."""
    with suppress(OSError, ValueError):
        os.write(STDERR if _terminal is None else _terminal.fileno(), text.encode("ascii", "backslashreplace"))


class Chatter:
    """The file of a progress bar: the chatter stream at the time of construction, which is allowed to fail."""

    def __init__(self) -> None:
        self._stream = chatter_stream()

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "ascii"

    def write(self, text: str) -> int:
        write_chatter(self._stream, text)
        return len(text)

    def flush(self) -> None:
        pass  # every write is flushed

    def isatty(self) -> bool:
        return on_terminal(self._stream)

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, "there is no stderr")
        return self._stream.fileno()


@contextmanager
def without_library_output() -> Iterator[None]:
    """Drop what libraries such as libtiff write to stderr: it names no file, and it breaks a progress bar. Chatter goes
    on through another descriptor. CROSSLOOK_DEBUG and PYTHONFAULTHANDLER turn this off."""
    global _terminal
    if debugging() or faulthandler.is_enabled() or _terminal is not None or not _is_standard(sys.stderr):
        yield
        return
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    kept, null = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    stream = os.fdopen(kept, "w", encoding=sys.stderr.encoding, errors="backslashreplace")
    os.dup2(null, STDERR)
    os.close(null)
    _terminal = stream
    try:
        yield
    finally:
        _terminal = None
        os.dup2(kept, STDERR)
        with suppress(OSError, ValueError):
            stream.close()


def _is_standard(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() == STDERR
    except (OSError, ValueError):
        return False
