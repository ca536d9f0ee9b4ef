"""Ctrl-C, SIGTERM and SIGHUP: the first signal takes effect at once and loses nothing, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cli.process.streams import chatter_stream, on_terminal, write_chatter_at_once

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME_HANGUP_SECONDS = 1.0  # a terminal that closes sends SIGHUP, and its shell sends it again
SWALLOWED_AGAIN_SECONDS = 0.01
SHOW_CURSOR = "\033[?25h"


@dataclass
class _State:
    """received, since: the first signal, and when it came (`time.monotonic`). stop: the event that the first signal
    sets instead of raising an interrupt. is_swallowed: a finaliser dropped an interrupt, which is sent again.
    is_ending: the run is over, and nothing is left to lose. process: the one that listens; its forks do not."""

    received: int | None = None
    since: float = 0.0
    stop: threading.Event | None = None
    is_swallowed: bool = False
    is_ending: bool = False
    process: int = 0


_state = _State()


def listen() -> None:
    """Begin a run: the first signal raises `KeyboardInterrupt` in the main thread, the second ends the process. A
    signal that is ignored when the process starts, such as SIGHUP under nohup, stays ignored."""
    global _state
    if threading.current_thread() is not threading.main_thread():
        return
    _state = _State(process=os.getpid())
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _on_signal)


def received() -> int | None:
    """The number of the first signal that came, None if none did."""
    return _state.received


@contextmanager
def stopping_after_commit() -> Iterator[threading.Event]:
    """Let the first signal set the event, which asks a run to commit and end; the second ends the process."""
    stop = threading.Event()
    _state.stop = stop
    try:
        yield stop
    finally:
        _state.stop = None


def end_by_next_signal() -> None:
    """Mark the run as over: from now on a signal ends the process at once, not halfway through the last messages."""
    _state.is_ending = True


def raise_again() -> None:
    """Send a moment later the interrupt that was raised where Python drops it."""
    _state.is_swallowed = True
    again = threading.Timer(SWALLOWED_AGAIN_SECONDS, os.kill, (os.getpid(), _state.received or signal.SIGINT))
    again.daemon = True
    again.start()


def _on_signal(number: int, frame: object) -> None:
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
    """Exit without waiting for threads, which may hang in a read. A commit survives that, as it survives any kill."""
    is_same = number == getattr(signal, "SIGHUP", None) and time.monotonic() - _state.since < SAME_HANGUP_SECONDS
    if is_same and not _state.is_ending:
        return
    if on_terminal(chatter_stream()) and os.environ.get("TERM") != "dumb":
        write_chatter_at_once(SHOW_CURSOR)
    os._exit(128 + number)
