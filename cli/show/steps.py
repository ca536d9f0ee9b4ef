"""How a run of several tasks shows its progress, training included: a bar for each task, or lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli.show.output import note
from cli.show.progress import EVERY_SECONDS, Pace, fits_bar, open_bar
from retrieval.progress import Epoch, Observer, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.progress import Progress as Bar

DECAY = 0.95  # of the moving average of the losses that a bar shows, for each step


@contextmanager
def step_display() -> Iterator[Observer]:
    """The display that fits stderr."""
    if not fits_bar():
        yield Observer(note=note, step=_Lines().step, epoch=lambda epoch: note(_summary(epoch)))
        return
    with open_bar(described=True, after=["losses", "dev"]) as bar:
        shown = _Bar(bar)
        yield Observer(note=note, step=shown.step, epoch=shown.epoch)


class _Bar:
    """The losses shown are moving averages within the epoch; the dev figures are those of the last epoch."""

    def __init__(self, bar: Bar) -> None:
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
            self._losses[name] = DECAY * self._losses.get(name, loss) + (1 - DECAY) * loss
        self._bar.update(self._task, completed=step.done, total=step.total, losses=_losses(self._losses))
        if step.done == step.total:
            self._bar.refresh()  # before it makes room for the next task

    def epoch(self, epoch: Epoch) -> None:
        self._dev = _dev(epoch)
        note(_summary(epoch))


class _Lines:
    """Steps with losses print no line: their epochs do."""

    def __init__(self) -> None:
        self._pace = Pace(EVERY_SECONDS)

    def step(self, step: Step) -> None:
        if not step.losses and self._pace.is_due():
            note(f"{step.what}: {step.done:,} of {step.total:,}")


def _summary(epoch: Epoch) -> str:
    return f"{epoch.stage}, epoch {epoch.number + 1}: {_losses(epoch.losses)}; {_dev(epoch)}"


def _losses(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())


def _dev(epoch: Epoch) -> str:
    return "R@1 of dev " + ", ".join(f"{name} {100 * value:.1f}" for name, value in epoch.dev.items())
