"""Ctrl-C, SIGTERM and SIGHUP: the first is heard at once and loses nothing, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cli.streams import chatter_stream, on_terminal, write_chatter_at_once

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME_HANGUP_SECONDS = 1.0  # a terminal that closes sends SIGHUP, and its shell sends it again
SWALLOWED_AGAIN_SECONDS = 0.01
SHOW_CURSOR = "\033[?25h"


@dataclass
class _State:
    """received: the first signal, and since when. stop: set by it instead of an interrupt, where there is one.
    is_swallowed: an interrupt was dropped by a finaliser, and is sent again. is_ending: nothing is left to lose.
    process: the one that listens; what it forks does not."""

    received: int | None = None
    since: float = 0.0
    stop: threading.Event | None = None
    is_swallowed: bool = False
    is_ending: bool = False
    process: int = 0


_state = _State()


def listen() -> None:
    """From now on the first signal raises `KeyboardInterrupt` in the main thread and the second ends the process. A
    signal that is ignored when the process starts, such as SIGHUP under nohup, stays so."""
    if threading.current_thread() is not threading.main_thread():
        return
    _state.process = os.getpid()
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _hear)


def received() -> int | None:
    """The number of the first signal that came, None where none did."""
    return _state.received


@contextmanager
def stopping_after_commit() -> Iterator[threading.Event]:
    """Meanwhile the first signal sets the event, which asks a run to commit and end; the second ends the process."""
    stop = threading.Event()
    _state.stop = stop
    try:
        yield stop
    finally:
        _state.stop = None


def end_by_next_signal() -> None:
    """The run is over, and what is left is not to be interrupted halfway: from now on a signal ends the process."""
    _state.is_ending = True


def raise_again() -> None:
    """An interrupt was raised where Python drops it; raise it again a moment later."""
    _state.is_swallowed = True
    again = threading.Timer(SWALLOWED_AGAIN_SECONDS, os.kill, (os.getpid(), _state.received or signal.SIGINT))
    again.daemon = True
    again.start()


def _hear(number: int, frame: object) -> None:
    if os.getpid() != _state.process:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if _state.is_swallowed and not _state.is_ending:
        _state.is_swallowed = False
        raise KeyboardInterrupt
    if _state.received is not None or _state.is_ending:
        _end_at_once(number)
        return
    _state.received, _state.since = number, time.monotonic()
    if _state.stop is None:
        raise KeyboardInterrupt
    _state.stop.set()
    again = "Ctrl-C again" if number == signal.SIGINT else "a second signal"
    write_chatter_at_once(f"\nstopping as soon as what is under way is committed; {again} stops at once\n")


def _end_at_once(number: int) -> None:
    """Without waiting for threads, which may hang in a read; a commit is safe from that, as from any kill."""
    is_same = number == getattr(signal, "SIGHUP", None) and time.monotonic() - _state.since < SAME_HANGUP_SECONDS
    if is_same and not _state.is_ending:
        return
    if on_terminal(chatter_stream()) and os.environ.get("TERM") != "dumb":
        write_chatter_at_once(SHOW_CURSOR)
    os._exit(128 + number)
