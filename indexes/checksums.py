"""Checksums of files: CRC-32, which sees every single damaged byte and every damaged run of up to four."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20


def checksum_of(content: bytes) -> str:
    """Of bytes in memory, as the manifest writes it."""
    return _named(zlib.crc32(content))


def file_checksum(path: Path) -> tuple[int, str]:
    """How many bytes a file has, and their checksum. Raises `OSError`."""
    count, crc = 0, 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            count, crc = count + len(block), zlib.crc32(block, crc)
    return count, _named(crc)


def row_checksums(embeddings: NDArray[np.float16], tokens: NDArray[Any]) -> list[int]:
    """Of each row its embedding and its tokens as they are stored, float16 [n, dim] and [n, regions, token_dim]. A row
    that is copied into a new file is compared with it first: else damage would get a valid checksum there."""
    pairs = zip(np.ascontiguousarray(embeddings), np.ascontiguousarray(tokens), strict=True)
    return [zlib.crc32(region_tokens, zlib.crc32(embedding)) for embedding, region_tokens in pairs]


class ChecksummedFile(io.RawIOBase):
    """Passes what is written on to another open file, and sums it up meanwhile."""

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
