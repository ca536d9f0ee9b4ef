"""The standard streams, also where they are closed, full, or nobody reads them any more."""

from __future__ import annotations

import errno
import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

STDERR = 2

_terminal: TextIO | None = None  # where chatter goes while what others write to stderr is dropped
_lines: list[Callable[[str], None]] = []  # the last one prints lines above the bar that is shown


def debugging() -> bool:
    """Whether `$CROSSLOOK_DEBUG` asks for tracebacks, and for what libraries say."""
    return os.environ.get("CROSSLOOK_DEBUG", "") not in ("", "0")


def open_standard_streams() -> None:
    """Give the descriptors 0, 1 and 2 a meaning where they are closed: else the next file to be opened would get one,
    and what libraries print would be written into it. Reading such a stdin and writing such a stdout are errors; what
    goes to such a stderr is dropped."""
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
    """One line about a stdout that takes no more."""
    closed = isinstance(error, ValueError) or getattr(error, "errno", None) == errno.EBADF
    reason = "it is closed" if closed else getattr(error, "strerror", None) or str(error)
    return f"cannot write to standard output: {reason}"


def silence(stream: TextIO) -> None:
    """Let what is still to be written to a stream, and all that follows, vanish."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def on_terminal(stream: TextIO | None) -> bool:
    """Whether a stream, which may be closed, is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def chatter_stream() -> TextIO | None:
    """Where chatter goes: stderr as it was when the process began."""
    return sys.stderr if _terminal is None else _terminal


def say(line: str) -> None:
    """Write one line of chatter, above the bar that is shown; it is dropped where nobody can read it."""
    if _lines:
        _lines[-1](line)
    else:
        write_chatter(chatter_stream(), line + "\n")


@contextmanager
def lines_through(print_line: Callable[[str], None]) -> Iterator[None]:
    """Meanwhile `say` leaves the printing to a bar."""
    _lines.append(print_line)
    try:
        yield
    finally:
        _lines.remove(print_line)


def write_chatter(stream: TextIO | None, text: str) -> None:
    """Write to a stream of which nothing depends: it may be closed, full, or without a reader."""
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
    """The same for a signal handler, which may have interrupted any other way of writing in its middle."""
    with suppress(OSError, ValueError):
        os.write(STDERR if _terminal is None else _terminal.fileno(), text.encode("ascii", "backslashreplace"))


class Chatter:
    """What a progress bar writes to: the stderr of the time when it was made, which is allowed to fail."""

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
    """Drop what libraries write to stderr themselves, libtiff above all, since it names no file and breaks a bar;
    chatter goes on through a descriptor of its own. Who looks for a fault, by CROSSLOOK_DEBUG or PYTHONFAULTHANDLER,
    sees it all."""
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
