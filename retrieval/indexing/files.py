"""Listing: one file, as the file system describes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from retrieval.images import ENDINGS

SMALLEST, LARGEST = -(2**63), 2**63 - 1  # that an int64 column of a collection holds


@dataclass(frozen=True, slots=True)
class File:
    """An image file. path: absolute. size: bytes. mtime_ns, ctime_ns: nanoseconds. is_broken_link: it is a link that
    points to nothing, at the moment at least.

    Numbers beyond 64 bits are clamped, so that a photo from the year 2400 does not fail its segment."""

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    is_broken_link: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """For worker processes: pickles faster than a dataclass with slots by itself."""
        return File, (self.path, self.size, self.mtime_ns, self.ctime_ns, self.is_broken_link)

    def __post_init__(self) -> None:
        numbers = (self.size, self.mtime_ns, self.ctime_ns)
        if min(numbers) < SMALLEST or max(numbers) > LARGEST:
            for name, number in zip(("size", "mtime_ns", "ctime_ns"), numbers, strict=True):
                object.__setattr__(self, name, min(max(number, SMALLEST), LARGEST))


def is_image(name: bytes) -> bool:
    """Whether a file's name has the ending of a format that can be decoded."""
    return ending_of(name) in ENDINGS


def ending_of(name: bytes) -> str:
    """The ending of a name in lower case, with the dot; empty if there is none."""
    return os.path.splitext(name)[1].lower().decode("latin-1")
