"""How something that goes on in steps shows where it is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli.show.output import note
from cli.show.progress import EVERY_SECONDS, fits_bar, open_bar
from retrieval.progress import Step
from retrieval.training.watching import Epoch, Watcher

if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT = 0.95  # of the losses that a bar shows, of each step


@contextmanager
def step_display() -> Iterator[Watcher]:
    """The display that fits stderr."""
    if not fits_bar():
        lines = _Lines()
        yield Watcher(note, lines.step, lambda epoch: note(_told(epoch)))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}", markup=False),
        TextColumn("{task.fields[dev]}", markup=False),
    ]
    with open_bar(columns) as bar:
        shown = _Bar(bar)
        yield Watcher(note, shown.step, shown.epoch)


class _Bar:
    """Losses are moving averages of the epoch; the figures on dev those of the last one."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._what = ""
        self._task: Any = None
        self._losses: dict[str, float] = {}
        self._dev = ""

    def step(self, step: Step) -> None:
        if step.what != self._what:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(step.what, total=step.total, losses="", dev=self._dev)
            self._what, self._losses = step.what, {}
        for name, loss in step.losses.items():
            self._losses[name] = KEPT * self._losses.get(name, loss) + (1 - KEPT) * loss
        self._bar.update(self._task, completed=step.done, total=step.total, losses=_losses(self._losses))
        if step.done == step.total:
            self._bar.refresh()  # before it makes room for the next

    def epoch(self, epoch: Epoch) -> None:
        self._dev = _dev(epoch)
        note(_told(epoch))


class _Lines:
    """Of steps in which something learns none is told: their epochs are."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def step(self, step: Step) -> None:
        now = time.monotonic()
        if not step.losses and now - self._last >= EVERY_SECONDS:
            self._last = now
            note(f"{step.what}: {step.done:,} of {step.total:,}")


def _told(epoch: Epoch) -> str:
    return f"{epoch.stage}, epoch {epoch.number + 1}: {_losses(epoch.losses)}; {_dev(epoch)}"


def _losses(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())


def _dev(epoch: Epoch) -> str:
    return "R@1 of dev " + ", ".join(f"{name} {100 * value:.1f}" for name, value in epoch.dev.items())
