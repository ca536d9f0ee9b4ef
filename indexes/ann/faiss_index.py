"""The ANN index of FAISS: inverted lists with product quantization, in one file.

Rows lie in lists around centroids. A code of four bits for every two dimensions describes how a row differs from its
centroid (Jégou et al. 2011, "Product Quantization for Nearest Neighbor Search"; scanned in registers as in André et al.
2015, "Cache Locality Is Not Enough"). A query scans the `nprobe` lists with the nearest centroids."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from indexes.ann.base import unusable_ann
from indexes.ann.faiss_module import import_faiss
from indexes.errors import closed_collection
from indexes.manifest import AnnEntry
from indexes.numbering import RowId, RowIds

KIND = "faiss"


class FaissIndex:
    """An `AnnIndex` that was read into memory."""

    kind = KIND

    def __init__(self, file: IO[bytes], entry: AnnEntry) -> None:
        """file: open for reading; a writer may have removed its name since. Raises `CrosslookError` if it is not the
        file that `entry` describes, or FAISS cannot read it."""
        faiss = import_faiss()
        self.entry = entry
        self._index: Any = None
        try:
            size = os.fstat(file.fileno()).st_size
            if size != entry.bytes:
                raise unusable_ann(file.name, f"it has {size:,} bytes, expected {entry.bytes:,}")
            # Not mapped: FAISS copies these lists even then, and every page would be in memory twice.
            self._index = faiss.read_index(_readable(faiss, file))
        except (OSError, RuntimeError, MemoryError) as error:
            raise unusable_ann(file.name, "it is not an index of FAISS") from error

    @property
    def last_id(self) -> RowId:
        """See `AnnIndex`."""
        return self.entry.last_id

    def shortlist(self, queries: NDArray[np.float32], count: int) -> RowIds:
        """See `AnnIndex`."""
        index = self._index  # another thread may close meanwhile
        if index is None:
            raise closed_collection()
        with one_thread():
            return search(index, queries, count, self.entry.nprobe)

    def close(self) -> None:
        """See `AnnIndex`."""
        self._index = None


def search(index: Any, queries: NDArray[np.float32], count: int, nprobe: int) -> RowIds:
    """Ids of the rows with the nearest codes, int64 [q, count]; see `AnnIndex.shortlist`. index: of FAISS."""
    import_faiss().extract_index_ivf(index).nprobe = nprobe
    ids: RowIds = index.search(np.ascontiguousarray(queries, np.float32), count)[1]
    return ids


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS uses the calling thread alone."""
    faiss = import_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _readable(faiss: Any, file: IO[bytes]) -> Any:
    """What FAISS reads an open file by, from its beginning, also while another thread reads it. Linux opens the file
    anew under this name. On macOS that name would share the file's offset with all other readers."""
    if sys.platform == "linux":
        return f"/proc/self/fd/{file.fileno()}"
    if not hasattr(os, "pread"):  # Windows
        return file.name
    offset = 0

    def read(size: int) -> bytes:
        nonlocal offset
        content = os.pread(file.fileno(), size, offset)
        offset += len(content)
        return content

    return faiss.PyCallbackIOReader(read)
