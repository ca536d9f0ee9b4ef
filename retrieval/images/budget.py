"""How much memory may all files and pictures that are being decoded take together?"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

MEMORY = 400_000_000  # bytes, of pictures
CONTENTS = 120_000_000  # bytes, of files
TRIM_BYTES = 32_000_000  # bytes; a release of this size triggers malloc_trim


class Budget:
    """Bytes that several threads share, first come, first served. A request larger than the budget waits until no
    other bytes are held."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.largest: int | None = None  # bytes; larger requests are refused; None for no limit
        self.taken = 0  # bytes held now
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes are free, and holds them. Must not be nested in itself. Raises `MemoryError` for
        more than `largest`."""
        if self.largest is not None and size > self.largest:
            raise MemoryError(f"{size:,} bytes are more than may be held at once")
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._fits(size))
                self.taken += size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            if size >= TRIM_BYTES:
                _give_back()
            with self._changed:
                self.taken -= size
                self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many requests wait, or are being admitted."""
        return len(self._waiting)

    def _fits(self, size: int) -> bool:
        return self.taken == 0 or self.taken + size <= self.total


PICTURES = Budget(MEMORY)
# Whoever reads a file holds bytes of FILES from before it is read until it is decoded; PICTURES nests inside, never the
# other way round.
FILES = Budget(CONTENTS)


def _give_back() -> None:
    """Returns freed memory to the system. Otherwise glibc keeps freed memory per thread, up to four times what is in
    use."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another allocator
        return None
