"""What a long run reports while it goes on, and how it is asked to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class Interrupted(Exception):
    """The observer asked to stop before anything was encoded."""


@dataclass(frozen=True)
class Progress:
    """Event of an indexing run: how many images of `total` are done, and what has happened so far.

    touched: files of which only the times changed. copied: files with known content, which are not encoded again.
    postponed: files that could not be read now; the next run tries them again. incomplete: new and changed images of
    which a part is missing. kept: images that are absent, in folders that are empty or not mounted. dropped: rows lost
    with damaged segments. passed_over: pictures in formats that are not supported, by ending. seconds: since the run
    began."""

    total: int = 0
    new: int = 0
    changed: int = 0
    moved: int = 0
    touched: int = 0
    copied: int = 0
    removed: int = 0
    failed: int = 0
    postponed: int = 0
    incomplete: int = 0
    unchanged: int = 0
    still_failing: int = 0
    kept: int = 0
    dropped: int = 0
    passed_over: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def encoded(self) -> int:
        return self.new + self.changed

    @property
    def done(self) -> int:
        return self.encoded + self.copied + self.failed + self.postponed


@dataclass(frozen=True)
class Step:
    """Event of any other run: `done` of `total` units of one task are done.

    what: the task, for people. losses: in training, the losses of this step by name."""

    what: str
    done: int
    total: int
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Epoch:
    """Event of a training run: one pass over the training images is done.

    stage: what is being trained. number: from 0. losses: the mean over the epoch's steps by name, before weighting.
    dev: figures of the moving average on the dev images by name, 0 to 1."""

    stage: str
    number: int
    losses: dict[str, float]
    dev: dict[str, float]

    @property
    def quality(self) -> float:
        """The mean of the dev figures, by which the best epoch is chosen."""
        return sum(self.dev.values()) / len(self.dev)


@dataclass(frozen=True)
class Observer:
    """Receives the events of a run. Every callback is optional; runs call only those that apply to them.

    progress, step, epoch: the events above. failure: path of a file or folder that could not be used, and why. note:
    one line for people about the run as a whole. should_stop: polled by the run; True stops it early and keeps what is
    done."""

    progress: Callable[[Progress], None] = lambda progress: None
    failure: Callable[[bytes, str], None] = lambda path, reason: None
    note: Callable[[str], None] = lambda line: None
    should_stop: Callable[[], bool] = lambda: False
    step: Callable[[Step], None] = lambda step: None
    epoch: Callable[[Epoch], None] = lambda epoch: None


SILENT = Observer()
