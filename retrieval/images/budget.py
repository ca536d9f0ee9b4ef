"""How much memory the files and the pictures that are being decoded may take together."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

MEMORY = 400_000_000
CONTENTS = 120_000_000
MUCH = 32_000_000


class Budget:
    """Bytes that several threads share. Who comes first is served first; what is larger than all of it goes alone."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._taken = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Wait until there is room for so many bytes, and hold them. Not to be nested in itself."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._fits(size))
                self._taken += size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            if size >= MUCH:
                _give_back()
            with self._changed:
                self._taken -= size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._taken == 0 or self._taken + size <= self.total


PICTURES = Budget(MEMORY)
# For those who read files: to be held from before a file is read until it is decoded, which nests in this order only.
FILES = Budget(CONTENTS)


def _give_back() -> None:
    """Return to the system what the allocator keeps of each thread's freed pictures: with glibc, up to four times what
    is in use."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another allocator
        return None
