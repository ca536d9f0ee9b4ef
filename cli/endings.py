"""How a run ends: the exit status, and the one line on stderr where something went wrong."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from cli import interruption, libraries, streams
from cli.show.output import note
from cli.statuses import ERROR, NOTHING_FOUND, UNFORESEEN
from cli.streams import debugging
from indexes.errors import CrosslookError

CODE = Path(__file__).resolve().parents[1]
OURS = tuple(str(CODE / package) + os.sep for package in ("cli", "retrieval", "indexes"))

_unforeseen_in_threads: list[str] = []


def run() -> int:
    """Run the command line of this process and return its exit status: 0 done, 1 nothing found, 2 an error that a user
    can mend, 70 one of the program's own, 128 and the signal's number where a signal ended it."""
    streams.open_standard_streams()
    interruption.listen()
    libraries.quiet_libraries()
    threading.excepthook = _tell_of_thread
    sys.unraisablehook = _tell_of_unraisable
    try:
        from cli.commands import app

        status = _status(app(standalone_mode=False))
        interruption.end_by_next_signal()
    except BaseException as error:
        interruption.end_by_next_signal()
        status = _told(error)
    return _flushed(max(status, UNFORESEEN) if _unforeseen_in_threads and status <= NOTHING_FOUND else status)


def _status(returned: object) -> int:
    """Of what typer gives back: the status of `typer.Exit`, 130 for an interrupt, else what the command returned."""
    if returned == 128 + signal.SIGINT:
        return _interrupted()
    return returned if isinstance(returned, int) else 0


def _told(error: BaseException) -> int:
    """Say in one line what ended the run, and return the exit status."""
    if debugging():
        _trace(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "Abort" in kinds or any(isinstance(link, KeyboardInterrupt) for link in _chain(error)):
        return _interrupted()  # an import that is interrupted may end as an ImportError
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
    """ONNX Runtime and FAISS tell it in errors of their own."""
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
    """An error of the words on the command line, for which typer's classes are not imported here."""
    if type(error).__name__ == "NoArgsIsHelpError":
        streams.say(error.format_message())  # type: ignore[attr-defined]
        return ERROR
    return _failed(error.format_message())  # type: ignore[attr-defined]


def _exited(error: SystemExit) -> int:
    """Typer ends with 1 where the reader of stdout has gone, which has what it wants; a library that ends the process
    with a status of its own is unforeseen."""
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
    is_of_stdout = functions[-1:] == ["echo"]  # by which typer prints help
    return streams.unwritable(error) if is_of_stdout else error.strerror or str(error)


def described(error: BaseException) -> str:
    """One line about an error that nobody foresaw: what, where, and how to report it."""
    return (
        f"unexpected error, {type(error).__name__} at {_place(error)}: {_shortened(str(error))}; "
        f"CROSSLOOK_DEBUG=1 prints the traceback; {_report()}"
    )


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"


def _place(error: BaseException) -> str:
    """File and line where an error arose, and of another's code from where in ours it was called."""
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
    """Where the package's metadata says that errors are reported."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("crosslook").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    places = [url for name, _, url in (entry.partition(", ") for entry in urls) if name.lower() in ("issues", "bugs")]
    return f"please report this line at {places[0]}" if places else "please report it with this line"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those from which it came."""
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _tell_of_thread(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value
    if error is None or isinstance(error, SystemExit):
        return
    if debugging():
        _trace(error)
    line = described(error)
    _unforeseen_in_threads.append(line)
    note(f"search: in a thread: {line}")


def _tell_of_unraisable(arguments: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a finaliser or a callback; of streams that nobody reads it is no news, and an
    interrupt must not be lost by it."""
    error = arguments.exc_value
    if isinstance(error, KeyboardInterrupt):
        interruption.raise_again()
    elif error is not None and debugging():
        _trace(error)
    elif error is not None and not isinstance(error, BrokenPipeError):
        note(f"search: ignored: {described(error)}")


def _flushed(status: int) -> int:
    """Write now what is still to be written: the interpreter would end with a traceback and the status 120."""
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
