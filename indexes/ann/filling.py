"""Fill the lists of an index of FAISS whose lists a device chooses.

FAISS's index for packed codes asks its own quantizer for the list of every row. Its index for plain codes takes lists
that are known, and can be packed: the result is the same to the byte."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.ann.faiss_module import import_faiss
from indexes.ann.source import Source
from indexes.exact import as_float32
from indexes.numbering import RowIds
from indexes.on_device.base import Backend, Chooser

DIMENSIONS_A_CODE = 2  # with four, shortlists must be four to eight times as long
CODE_BITS = 4
THREADS = 4  # that prepare blocks, of a hundred megabytes


def padded_dim(dim: int) -> int:
    """A multiple of `DIMENSIONS_A_CODE`."""
    return -(-dim // DIMENSIONS_A_CODE) * DIMENSIONS_A_CODE


def padded_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """With zeros at the end, float32 [n, padded_dim]."""
    dim = rows.shape[1]
    return rows if dim == padded_dim(dim) else np.pad(rows, ((0, 0), (0, padded_dim(dim) - dim)))


def fill_by_device(index: Any, source: Source, backend: Backend) -> None:
    """Add all rows to an index that is trained and empty. Raises `DeviceError`."""
    faiss = import_faiss()
    packed = faiss.downcast_index(faiss.extract_index_ivf(index))
    plain = faiss.IndexIVFPQ(packed.quantizer, packed.d, packed.nlist, packed.pq.M, CODE_BITS, packed.metric_type)
    plain.own_fields = False
    plain.by_residual, plain.pq, plain.is_trained = packed.by_residual, packed.pq, True
    choose = backend.chooser(packed.quantizer.reconstruct_n(0, packed.nlist)[:, : source.dim])
    for ids, rows, lists in _chosen(source, choose):
        plain.add_core(len(rows), *(faiss.swig_ptr(array) for array in (rows, ids, lists)))
    filled = faiss.IndexIVFPQFastScan(plain, packed.bbs)
    filled.own_invlists = False  # they become those of `packed`
    packed.replace_invlists(filled.invlists, True)
    packed.ntotal = index.ntotal = plain.ntotal


def _chosen(source: Source, choose: Chooser) -> Iterator[tuple[RowIds, NDArray[np.float32], NDArray[np.int64]]]:
    """Ids, padded rows and lists of all rows, block by block, in order. Threads prepare the next blocks meanwhile."""

    def prepare(ids: RowIds, block: NDArray[np.float16]) -> tuple[RowIds, NDArray[np.float32], NDArray[np.int64]]:
        lists = np.ascontiguousarray(choose(block))
        return np.ascontiguousarray(ids), np.ascontiguousarray(padded_rows(as_float32(block))), lists

    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[tuple[RowIds, NDArray[np.float32], NDArray[np.int64]]]] = deque()
        try:
            for ids, block in source.stored_blocks("adding images"):
                waiting.append(pool.submit(prepare, ids, block))
                if len(waiting) > THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
