"""What a run tells while it goes on, and how it is asked to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class Interrupted(Exception):
    """The observer asked to stop before anything was encoded."""


@dataclass(frozen=True)
class Progress:
    """Where a run is: images done of `total` to encode, and what has happened so far.

    touched: files of which only the times changed. copied: files whose content is known already, so that they were not
    encoded again. postponed: files that could not be read now, which the next run tries again. incomplete: images of
    which a part is missing, among the new and changed ones. kept: images that are
    not there, in folders that are empty or not mounted. dropped: rows that were lost with damaged segments.
    passed_over: pictures in formats that are not read, by ending. seconds: since it began."""

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
class Observer:
    """What the pipeline tells while it runs, and asks: whether to stop early, keeping what is done.

    failure: a file or folder that could not be used, and why. note: one line for people about the run as a whole."""

    progress: Callable[[Progress], None] = lambda progress: None
    failure: Callable[[bytes, str], None] = lambda path, reason: None
    note: Callable[[str], None] = lambda line: None
    should_stop: Callable[[], bool] = lambda: False


SILENT = Observer()


@dataclass(frozen=True)
class Step:
    """Something of a run is done. what: it is, for people. done, total: how far that is, in units of its own. losses:
    where something learns, those of the step, by name."""

    what: str
    done: int
    total: int
    losses: Mapping[str, float] = field(default_factory=dict)
