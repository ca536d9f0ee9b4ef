"""Checksums of files: CRC-32, which detects every damaged byte and every damaged run of up to four bytes."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20


def checksum_of(content: bytes) -> str:
    """The checksum of bytes in memory, in the form that the manifest keeps."""
    return _named(zlib.crc32(content))


def file_checksum(path: Path) -> tuple[int, str]:
    """The size of a file in bytes, and its checksum. Raises `OSError`."""
    count, crc = 0, 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            count, crc = count + len(block), zlib.crc32(block, crc)
    return count, _named(crc)


def row_checksums(embeddings: NDArray[np.float16], regions: NDArray[Any]) -> list[int]:
    """One checksum a row, of its embedding and regions as they are stored.

    embeddings: float16 [n, dim]. regions: [n, regions, region_dim]. A row that is copied into a new file is compared
    with its checksum first, or damage would get a valid checksum there."""
    pairs = zip(np.ascontiguousarray(embeddings), np.ascontiguousarray(regions), strict=True)
    return [zlib.crc32(image_regions, zlib.crc32(embedding)) for embedding, image_regions in pairs]


class ChecksummedFile(io.RawIOBase):
    """Writes to another open file and computes the checksum on the way. bytes: written so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._crc = 0
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        view = memoryview(content)
        if not view.nbytes:  # arrays without rows cannot be seen as bytes
            return 0
        view = view.cast("B")
        self._file.write(view)
        self._crc = zlib.crc32(view, self._crc)
        self.bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        if not self.closed:
            self._file.flush()

    @property
    def checksum(self) -> str:
        return _named(self._crc)


def _named(crc: int) -> str:
    return f"crc32:{crc:08x}"
