"""What every ANN index can do, whatever library or server it is of."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from indexes.numbering import RowId, RowIds

FEWEST_ROWS = 50_000  # smaller collections are compared row by row


class AnnIndex(Protocol):
    """An ANN index over one collection, opened for searching. It is immutable, and may be searched by several threads
    at once."""

    @property
    def kind(self) -> str:
        """The name of the implementation in the manifest, see `AnnEntry.kind`."""
        ...

    @property
    def last_id(self) -> RowId:
        """Coverage: the index holds all rows that counted when it was made or extended and whose id is at most this,
        and no others. Some of them may be dead by now."""
        ...

    def shortlist(self, queries: NDArray[np.float32], count: int) -> RowIds:
        """The `count` covered rows that are nearest by the index's own, approximate measure, nearest first.

        queries: float32 [q, dim], unit norm. Returns int64 [q, count], no id twice in a row, padded with -1 at the end
        where the index finds fewer. A query's ids do not depend on the other queries. Dead rows are returned too. Uses
        the calling thread alone: in a few milliseconds several threads gain little, and they would wait for cores that
        the scorer needs.

        Raises `CrosslookError` after `close`."""
        ...

    def close(self) -> None:
        """Free the memory. Searches that are running end as usual. Closing twice is allowed."""
        ...


def unusable_ann(file: object, reason: str) -> CrosslookError:
    """For an index that cannot be opened: the collection is searched exactly, and goes on."""
    return CrosslookError(f"{file} cannot be used ({reason}): make it anew with `search optimize`")
