"""How a long run shows its progress: a bar on a terminal, elsewhere a line every few seconds.

`progress_display` shows an indexing run (images, rate, counts); `cli.show.steps.step_display` shows every other run,
training included. Both yield an `Observer`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli.process.streams import Chatter, chatter_stream, lines_through, on_terminal, without_library_output
from cli.show.output import note
from retrieval.progress import Observer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from retrieval.progress import Progress

EVERY_SECONDS = 5.0


@contextmanager
def progress_display() -> Iterator[Observer]:
    """The display of an indexing run that fits stderr. What libraries write to stderr meanwhile is dropped."""
    with without_library_output():
        if not fits_bar():
            yield Observer(progress=_Lines().progress, failure=_note_failure, note=note)
            return
        with open_bar(between=["rate"], after=["counts"]) as bar:
            yield Observer(progress=_Bar(bar).progress, failure=_note_failure, note=note)


def fits_bar() -> bool:
    """Whether stderr is a terminal whose cursor can be moved."""
    return on_terminal(chatter_stream()) and os.environ.get("TERM") not in ("dumb", "unknown")


@contextmanager
def open_bar(*, described: bool = False, between: Sequence[str] = (), after: Sequence[str] = ()) -> Iterator[Bar]:
    """A bar on stderr with the count and the remaining time; notes appear above it.

    described: whether the task's description stands before the bar. between, after: names of task fields that are shown
    as text before and after the remaining time. The bar goes on even if nobody can see it. Names are shown as they
    are: rich would take what stands in [] or between colons for markup."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    def text(template: str) -> TextColumn:
        return TextColumn(template, markup=False)

    columns = [
        *([text("{task.description}")] if described else []),
        BarColumn(),
        MofNCompleteColumn(),
        *(text(f"{{task.fields[{name}]}}") for name in between),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        *(text(f"{{task.fields[{name}]}}") for name in after),
    ]
    shows_libraries = chatter_stream() is sys.stderr  # above the bar, where they are not dropped
    console: Any = Console(file=Chatter(), markup=False, emoji=False, highlight=False)  # type: ignore[arg-type]

    def print_line(line: str) -> None:
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    with (
        Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=shows_libraries) as bar,
        lines_through(print_line),
    ):
        yield bar


class Pace:
    """Admits one line every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether a line is due. If so, the time begins anew."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


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


class _Lines:
    def __init__(self) -> None:
        self._pace = Pace(EVERY_SECONDS)

    def progress(self, progress: Progress) -> None:
        if self._pace.is_due():
            rate = _rate(progress)
            left = f", {(progress.total - progress.done) / rate:.0f} s left" if rate else ""
            note(f"{progress.done:,} of {progress.total:,} images, {rate:.0f} images/s{left}: {_counts(progress)}")


def _note_failure(path: bytes, reason: str) -> None:
    note(f"skipped {os.fsdecode(path)}: {reason}")


def _rate(progress: Progress) -> float:
    return progress.done / progress.seconds if progress.seconds else 0.0


def _counts(progress: Progress) -> str:
    names = ("new", "changed", "moved", "removed", "failed")
    return ", ".join(f"{getattr(progress, name):,} {name}" for name in names if getattr(progress, name)) or "0 new"
