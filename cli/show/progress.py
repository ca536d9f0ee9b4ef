"""How a long run shows where it is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from cli.show.output import note
from cli.streams import Chatter, chatter_stream, lines_through, on_terminal, without_library_output

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

    from retrieval.progress import Progress

EVERY_SECONDS = 5.0


class Display(Protocol):
    def progress(self, progress: Progress) -> None: ...
    def failure(self, path: bytes, reason: str) -> None: ...


@contextmanager
def progress_display() -> Iterator[Display]:
    """The display that fits stderr. What libraries write to stderr meanwhile is dropped."""
    with without_library_output():
        if not fits_bar():
            yield _Lines()
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        columns = [
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
        ]
        with open_bar(columns) as bar:
            yield _Bar(bar)


def fits_bar() -> bool:
    """Whether stderr is a terminal whose cursor can be moved."""
    return on_terminal(chatter_stream()) and os.environ.get("TERM") not in ("dumb", "unknown")


@contextmanager
def open_bar(columns: list[ProgressColumn]) -> Iterator[Bar]:
    """A bar on stderr, which goes on though nobody may see it; notes appear above it. Names are shown as they are: rich
    would take what stands in [] or between colons for markup."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    shows_libraries = chatter_stream() is sys.stderr  # above the bar, where they are not dropped
    console: Any = Console(file=Chatter(), markup=False, emoji=False, highlight=False)  # type: ignore[arg-type]

    def print_line(line: str) -> None:
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    with (
        Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=shows_libraries) as bar,
        lines_through(print_line),
    ):
        yield bar


class _Bar:
    def __init__(self, bar: Bar) -> None:
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
        note(_skipped(path, reason))


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
    return f"skipped {os.fsdecode(path)}: {reason}"
