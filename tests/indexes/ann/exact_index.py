"""The slow, obviously right twin of every ANN index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from indexes.numbering import RowId, RowIds


class ExactIndex:
    """An `AnnIndex` that compares all rows."""

    kind = "exact"

    def __init__(self, ids: RowIds, embeddings: NDArray[np.float16]) -> None:
        self._rows = dict(zip(ids.tolist(), embeddings.astype(np.float32), strict=True))
        self._is_open = True

    @property
    def last_id(self) -> RowId:
        return max(self._rows)

    def shortlist(self, queries: NDArray[np.float32], count: int) -> RowIds:
        if not self._is_open:
            raise CrosslookError("closed")
        shortlists = np.full((len(queries), count), -1, np.int64)
        for shortlist, query in zip(shortlists, queries, strict=True):
            ids = sorted(self._rows, key=lambda row: -float(self._rows[row] @ query))
            shortlist[: len(ids)] = ids[:count]
        return shortlists

    def close(self) -> None:
        self._is_open = False
