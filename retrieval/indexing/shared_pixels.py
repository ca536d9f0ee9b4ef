"""Reading: memory that worker processes share with the run, in which they put the pixels of photos.

It has no name and lies in no file system: it is gone when the last process that has it ends, however that ends. Its
size is not bounded by that of /dev/shm."""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 16_000_000  # of pixels, for one chunk of files; that of a picture of 5 megapixels, the largest kept
_HEAD = mmap.PAGESIZE  # before the blocks: what each worker is doing
_PROGRESS = struct.Struct("<qq")
MOST_WORKERS = _HEAD // _PROGRESS.size
IDLE = -1
DECODING = -1


class SharedPixels:
    """blocks: how many of `block_bytes` there are. descriptor: of the memory, for another process."""

    def __init__(self, descriptor: int, blocks: int, block_bytes: int = BLOCK_BYTES) -> None:
        """Raises `OSError` or `ValueError` where memory cannot be mapped."""
        self.descriptor = descriptor
        self.blocks = blocks
        self.block_bytes = block_bytes
        self.memory = mmap.mmap(descriptor, _start(blocks, block_bytes))
        self._free = list(reversed(range(blocks)))  # the first are used first, and again
        self._changed = threading.Condition()

    @classmethod
    def created(cls, blocks: int, block_bytes: int = BLOCK_BYTES) -> SharedPixels:
        """Raises `OSError`, also where the system has no memory without a name."""
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no anonymous files")
        descriptor = os.memfd_create("crosslook pixels", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, _start(blocks, block_bytes))
            return cls(descriptor, blocks, block_bytes)
        except BaseException:
            os.close(descriptor)
            raise

    def pixels(self, block: int, offset: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """uint8 of this shape, in a block from `offset` on. The array is valid until the block is given back."""
        return np.ndarray(shape, np.uint8, self.memory, _start(block, self.block_bytes) + offset)

    @property
    def parts(self) -> list[NDArray[np.uint8]]:
        """The blocks, uint8 [block_bytes] each, in the order in which they are first taken. No two share a page."""
        return [self.pixels(block, 0, (self.block_bytes,)) for block in range(self.blocks)]

    def take(self, wait: bool = True) -> int | None:
        """A free block. None if there is none and `wait` is False."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._free)
            return self._free.pop() if self._free else None

    def give_back(self, blocks: Sequence[int]) -> None:
        """What is in these blocks is no longer needed."""
        with self._changed:
            self._free += blocks
            self._changed.notify_all()

    @property
    def free(self) -> int:
        """How many blocks are free."""
        return len(self._free)

    def set_progress(self, worker: int, number: int, pieces: int = DECODING) -> None:
        """number: of the file of its chunk that a worker is at, or `IDLE`. pieces: of the file that are read, or
        `DECODING` once it is read."""
        _PROGRESS.pack_into(self.memory, worker * _PROGRESS.size, number, pieces)

    def progress(self, worker: int) -> tuple[int, int]:
        number, pieces = _PROGRESS.unpack_from(self.memory, worker * _PROGRESS.size)
        return number, pieces

    def close(self) -> None:
        """The memory is freed once no array on it is left, and no other process has it."""
        os.close(self.descriptor)
        with suppress(BufferError):  # an array is left; the memory goes with it
            self.memory.close()


def _start(block: int, block_bytes: int) -> int:
    """Where a block begins: at a page."""
    return _HEAD + block * -(-block_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
