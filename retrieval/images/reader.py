"""A file's bytes for decoders, which may be read for so long and no longer."""

from __future__ import annotations

import io
import time

from retrieval.images.photo import TooSlow


class Clock:
    """Counts the processor time of the thread that made it, so that neither waiting nor a busy machine costs a file its
    picture."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.thread_time() + seconds

    def check(self) -> None:
        """Raises `TooSlow` once the time is over."""
        if time.thread_time() > self._end:
            raise TooSlow(self._seconds)


class Reader(io.BytesIO):
    """Raises `TooSlow` from `read` once the time is over. With an `ending`, those bytes follow the content once, and
    `is_short` tells whether they were asked for."""

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
