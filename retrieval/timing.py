"""How long the stages of a search take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Milliseconds by stage."""

    def __init__(self, milliseconds: dict[str, float] | None = None) -> None:
        self.milliseconds = milliseconds or {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Times what is done inside."""
        started = time.perf_counter()
        yield
        self.milliseconds[stage] = 1000 * (time.perf_counter() - started)
