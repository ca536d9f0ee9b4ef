"""A file's bytes for decoders, readable for a limited time."""

from __future__ import annotations

import io
import time

from retrieval.images.photo import TooSlow


class Clock:
    """Measures the processor time of the thread that made it. So no picture is lost because a thread waits or the
    machine is busy."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.thread_time() + seconds

    def check(self) -> None:
        """Raises `TooSlow` once the time is over."""
        if time.thread_time() > self._end:
            raise TooSlow(self._seconds)


class Reader(io.BytesIO):
    """`read` raises `TooSlow` once the time is over. ending: bytes that follow the content once. is_short: whether they
    were read."""

    def __init__(self, content: bytes, clock: Clock) -> None:
        super().__init__(content)
        self._clock = clock
        self.ending = b""
        self.is_short = False

    def read(self, size: int | None = -1, /) -> bytes:
        self._clock.check()
        content = super().read(size)
        if not content and self.ending and size != 0:
            self.is_short = True
            content, self.ending = self.ending, b""
        return content
