"""How a long run shows where it is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from cli.output import note, printable

if TYPE_CHECKING:
    from retrieval.progress import Progress

EVERY_SECONDS = 5.0


class Display(Protocol):
    def progress(self, progress: Progress) -> None: ...
    def failure(self, path: bytes, reason: str) -> None: ...


@contextmanager
def progress_display() -> Iterator[Display]:
    """The display that fits stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[counts]}"),
    ]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)


class _Bar:
    def __init__(self, bar) -> None:  # type: ignore[no-untyped-def]
        self._bar = bar
        self._task = bar.add_task("", total=None, rate="", counts="looking for images")

    def progress(self, progress: Progress) -> None:
        self._bar.update(
            self._task,
            total=progress.total,
            completed=progress.done,
            rate=f"{_rate(progress):.0f} images/s",
            counts=_counts(progress),
        )

    def failure(self, path: bytes, reason: str) -> None:
        self._bar.console.print(_skipped(path, reason), markup=False, highlight=False, soft_wrap=True)


class _Lines:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < EVERY_SECONDS:
            return
        self._last = now
        rate = _rate(progress)
        left = f", {(progress.total - progress.done) / rate:.0f} s left" if rate else ""
        note(f"{progress.done:,} of {progress.total:,} images, {rate:.0f} images/s{left}: {_counts(progress)}")

    def failure(self, path: bytes, reason: str) -> None:
        note(_skipped(path, reason))


def _rate(progress: Progress) -> float:
    return progress.done / progress.seconds if progress.seconds else 0.0


def _counts(progress: Progress) -> str:
    names = ("new", "changed", "moved", "removed", "failed")
    return ", ".join(f"{getattr(progress, name):,} {name}" for name in names if getattr(progress, name)) or "0 new"


def _skipped(path: bytes, reason: str) -> str:
    return printable(f"skipped {os.fsdecode(path)}: {reason}")
