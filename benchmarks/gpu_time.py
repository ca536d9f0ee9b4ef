"""The time of a part of benchmarks/gpu.py: what does not fit is left out, and what runs long is ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class NoTime(Exception):
    """A part, or a run of it, does not fit the time that is left."""


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Raises `NoTime` in the block after so many seconds; only in the main thread, and of a system with alarms."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ended(*_: object) -> None:
        raise NoTime(f"ended after {seconds:.0f} s: it takes longer than its share of the time")

    before = signal.signal(signal.SIGALRM, ended)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
