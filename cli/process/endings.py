"""How a run ends: its exit status, and one line on stderr if something went wrong."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from cli.process import interruption, libraries, streams
from cli.process.statuses import ERROR, NOTHING_FOUND, UNFORESEEN
from cli.process.streams import debugging
from cli.show.output import note
from indexes.errors import CrosslookError

CODE = Path(__file__).resolve().parents[2]
OURS = tuple(str(CODE / package) + os.sep for package in ("cli", "retrieval", "indexes"))

_unforeseen_in_threads: list[str] = []


def run(command: Callable[[], object]) -> int:
    """Run a command of this process and return its exit status: 0 done, 1 nothing found, 2 an error that a user can
    mend, 70 an error of the program's own, 128 plus the signal's number if a signal ended it.

    command: parses `sys.argv` and does the work. It returns an exit status, or anything else for 0."""
    _unforeseen_in_threads.clear()
    streams.open_standard_streams()
    interruption.listen()
    libraries.quiet_libraries()
    threading.excepthook = _report_thread
    sys.unraisablehook = _report_unraisable
    try:
        status = _status(command())
        interruption.end_by_next_signal()
    except BaseException as error:
        interruption.end_by_next_signal()
        status = _report_error(error)
    return _flushed(max(status, UNFORESEEN) if _unforeseen_in_threads and status <= NOTHING_FOUND else status)


def _status(returned: object) -> int:
    """The exit status for what typer returns: that of `typer.Exit`, 130 for an interrupt, else the command's value."""
    if returned == 128 + signal.SIGINT:
        return _interrupted()
    return returned if isinstance(returned, int) else 0


def _report_error(error: BaseException) -> int:
    """Print one line about the error that ended the run and return the exit status."""
    if debugging():
        _trace(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "Abort" in kinds or any(isinstance(link, KeyboardInterrupt) for link in _chain(error)):
        return _interrupted()  # an interrupted import may raise an ImportError
    if isinstance(error, SystemExit):
        return _exited(error)
    if isinstance(error, CrosslookError):
        return _failed(str(error))
    if "ClickException" in kinds:
        return _misused(error)
    if isinstance(error, MemoryError) or _is_lack_of_memory(error):
        return _failed(f"not enough memory ({str(error) or _place(error)}): close other programs, or do less at once")
    if isinstance(error, RecursionError):
        return _failed(f"nested too deeply ({_place(error)}): is one of the files such?")
    if isinstance(error, OSError):
        return _failed(_of_system(error))
    note(f"search: {described(error)}")
    return UNFORESEEN


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error is about lack of memory, for which ONNX Runtime and FAISS have their own errors."""
    return any(word in str(error) for word in ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory"))


def _trace(error: BaseException) -> None:
    streams.say("".join(traceback.format_exception(error)).rstrip("\n"))


def _interrupted() -> int:
    note("interrupted")
    return 128 + (interruption.received() or signal.SIGINT)


def _failed(message: str) -> int:
    note(f"search: {message}")
    return ERROR


def _misused(error: BaseException) -> int:
    """An error in the command line's words. Typer's classes are recognised by name, since typer may not be imported."""
    if type(error).__name__ == "NoArgsIsHelpError":
        streams.say(error.format_message())  # type: ignore[attr-defined]
        return ERROR
    return _failed(error.format_message())  # type: ignore[attr-defined]


def _exited(error: SystemExit) -> int:
    """The exit status for `SystemExit`. Typer exits with 1 if the reader of stdout has gone: that reader has what it
    wants, so the status is 0. A library that ends the process with another status is unforeseen."""
    if error.code in (None, 0, ERROR):
        return int(error.code or 0)
    if any(isinstance(link, OSError) and link.errno == errno.EPIPE for link in _chain(error)):
        return 0
    note(f"search: {described(error)}")
    return UNFORESEEN


def _of_system(error: OSError) -> str:
    if error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    functions = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    is_of_stdout = functions[-1:] == ["echo"]  # typer prints help with it
    return streams.unwritable(error) if is_of_stdout else error.strerror or str(error)


def described(error: BaseException) -> str:
    """One line about an unforeseen error: what, where, and how to report it."""
    return (
        f"unexpected error, {type(error).__name__} at {_place(error)}: {_shortened(str(error))}; "
        f"CROSSLOOK_DEBUG=1 prints the traceback; {_report()}"
    )


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"


def _place(error: BaseException) -> str:
    """File and line where an error arose; if that is in a library, also the line of this program that called it."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if not frames:
        return "an unknown place"
    ours = [place for place in frames if os.path.abspath(place[0]).startswith(OURS)]
    arose = _name(*frames[-1])
    return arose if not ours or ours[-1] == frames[-1] else f"{arose}, called from {_name(*ours[-1])}"


def _name(file: str, line: int) -> str:
    path = Path(file)
    if path.is_relative_to(CODE):
        return f"{path.relative_to(CODE)}:{line}"
    return f"{Path(*path.parts[-2:])}:{line}"


def _report() -> str:
    """How to report an error: at the address in the package's metadata, if there is one."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("crosslook").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    places = [url for name, _, url in (entry.partition(", ") for entry in urls) if name.lower() in ("issues", "bugs")]
    return f"please report this line at {places[0]}" if places else "please report it with this line"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes and contexts, from the last to the first."""
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _report_thread(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value
    if error is None or isinstance(error, SystemExit):
        return
    if debugging():
        _trace(error)
    line = described(error)
    _unforeseen_in_threads.append(line)
    note(f"search: in a thread: {line}")


def _report_unraisable(arguments: sys.UnraisableHookArgs) -> None:
    """Handle an error of a finaliser or a callback, which Python drops. An interrupt is raised again, a broken pipe is
    no news, and anything else is one line."""
    error = arguments.exc_value
    if isinstance(error, KeyboardInterrupt):
        interruption.raise_again()
    elif error is not None and debugging():
        _trace(error)
    elif error is not None and not isinstance(error, BrokenPipeError):
        note(f"search: ignored: {described(error)}")


def _flushed(status: int) -> int:
    """Flush the streams now: at its end the interpreter would print a traceback and exit with 120."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        streams.silence(sys.stdout)
    except (OSError, ValueError) as error:
        streams.silence(sys.stdout)
        if status <= NOTHING_FOUND:
            status = _failed(streams.unwritable(error))
    streams.flush_chatter()
    return status
