"""Decoded photos on disk, so that only the first epoch decodes them.

They are kept as decoding gives them, not resized: so a view of a kept photo is, to the bit, the view of its file. The
file has no name: it goes with the run, also with one that is killed, and a half-written one is never met again."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from retrieval.images import Photo
from retrieval.training.parallel import world

LIMIT = 100_000_000_000  # bytes
SHARE = 0.5  # of the free disk
LARGEST = 4_000_000  # bytes of a photo; larger ones are of formats that are not decoded at a smaller size


class DecodedPhotos:
    """Photos by number. Safe to use from several threads."""

    def __init__(self, folder: Path | None, note: Callable[[str], None] = lambda text: None) -> None:
        """folder: on the disk that is to hold them; None keeps nothing. note: receives one line if they cannot be
        written, which costs time and nothing else."""
        self._folder = folder
        self._note = note
        self._shapes: dict[int, tuple[int, tuple[int, ...]]] = {}  # the offset of a photo's pixels, and their shape
        self._changing = Lock()
        self._end = self._room = 0
        self._stopped = False
        if folder is None or not hasattr(os, "pread"):
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._room = min(LIMIT, int(SHARE * shutil.disk_usage(folder).free)) // world()
            self._file = tempfile.TemporaryFile(dir=folder, prefix="decoded.", buffering=0)  # noqa: SIM115
        except OSError as error:
            self._stop(error)

    def pixels(self, number: int, decode: Callable[[], Photo]) -> NDArray[np.uint8]:
        """The pixels of a photo, uint8 [h, w, 3], read-only: kept ones, or those that `decode` gives, which are then
        kept if there is room. Passes the exceptions of `decode`."""
        if number in self._shapes:
            offset, shape = self._shapes[number]
            content = self._read(offset, int(np.prod(shape)))
            if content is not None:
                return np.frombuffer(content, np.uint8).reshape(shape)
        pixels = decode().pixels
        if pixels.nbytes <= LARGEST and number not in self._shapes:
            self._keep(number, pixels)
        return pixels

    def _read(self, offset: int, size: int) -> bytes | None:
        """None where the drive fails: the photo is decoded again."""
        try:
            content = os.pread(self._file.fileno(), size, offset)
        except OSError:
            return None
        return content if len(content) == size else None

    def _keep(self, number: int, pixels: NDArray[np.uint8]) -> None:
        with self._changing:
            if pixels.nbytes > self._room - self._end:
                return
            offset, self._end = self._end, self._end + pixels.nbytes
        content, written = np.ascontiguousarray(pixels).data.cast("B"), 0
        try:
            while written < len(content):
                written += os.pwrite(self._file.fileno(), content[written:], offset + written)
        except OSError as error:
            self._stop(error)
            return
        self._shapes[number] = (offset, pixels.shape)

    def _stop(self, error: OSError) -> None:
        """Keep no more. What is kept already can still be read."""
        with self._changing:
            is_first, self._room, self._stopped = not self._stopped, 0, True
        if is_first:
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
            self._note(f"cannot keep decoded photos in {self._folder}: {reason}; they are decoded in every epoch")
