"""Files that stay open: when they are closed, and how many there may be."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import IO, Any, Generic, TypeVar

from numpy.typing import NDArray

from indexes.errors import closed_collection

Content = TypeVar("Content")


class OpenFile:
    """A file that is closed with the last reference to this object. A reader holds one while it reads, so that the
    system cannot give the descriptor to another file meanwhile. mapping: the file's content, once it was mapped."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.mapping: NDArray[Any] | None = None

    def __del__(self) -> None:
        self.file.close()


class Closable(Generic[Content]):
    """A reference that any number of threads use until one drops it, without a lock. A reader takes the content into a
    local variable first: that stays valid, and is freed with its last reader."""

    def __init__(self, content: Content) -> None:
        self._content: Content | None = content

    def get(self) -> Content:
        """Raises `CrosslookError` after `close`."""
        content = self._content
        if content is None:
            raise closed_collection()
        return content

    def close(self) -> None:
        """Drop the reference. Closing twice is allowed."""
        self._content = None


def admit_files(count: int) -> None:
    """Let `count` files be opened besides those that are open, as far as the system allows it. macOS starts with a
    limit of 256, Linux with 1,024."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError):
        count += len(os.listdir("/dev/fd"))
    if soft == resource.RLIM_INFINITY or count <= soft:
        return
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
