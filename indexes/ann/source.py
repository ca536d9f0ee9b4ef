"""What an ANN index is made of, in blocks, so that the embeddings are never all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.exact import as_float32
from indexes.numbering import RowId, RowIds

ROWS_AT_ONCE = 65_536

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Rows:
    """Rows of one segment. ids: int64 [n], ascending. embeddings: float16 [n, dim]."""

    ids: RowIds
    embeddings: NDArray[np.float16]


@dataclass(frozen=True)
class Source:
    """parts: of all segments, with ids that ascend from each part to the next. gather: embeddings by id, [n, dim], read
    the way a search reads them. texts: float32 [q, dim], embeddings of texts such as people search by. progress: called
    with the name of the step, and how much of it is done, of how much."""

    parts: Sequence[Rows]
    gather: Callable[[RowIds], NDArray[np.floating[Any]]]
    texts: NDArray[np.float32]
    progress: Progress = lambda step, done, total: None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(len(part.ids) for part in self.parts)

    @property
    def dim(self) -> int:
        """The length of an embedding."""
        return self.parts[0].embeddings.shape[1]

    @property
    def last_id(self) -> RowId:
        """The largest id."""
        return int(self.parts[-1].ids[-1])

    def blocks(self, step: str, after: RowId = 0) -> Iterator[tuple[RowIds, NDArray[np.float32]]]:
        """Ids and embeddings, a block at a time, of the rows with ids above `after`. step: for `progress`."""
        for ids, block in self.stored_blocks(step, after):
            yield ids, as_float32(block)

    def stored_blocks(self, step: str, after: RowId = 0) -> Iterator[tuple[RowIds, NDArray[np.float16]]]:
        """The same as they are stored."""
        firsts = [int(np.searchsorted(part.ids, after, side="right")) for part in self.parts]
        done, total = 0, self.rows - sum(firsts)
        for part, first in zip(self.parts, firsts, strict=True):
            for low in range(first, len(part.ids), ROWS_AT_ONCE):
                rows = slice(low, low + ROWS_AT_ONCE)
                yield part.ids[rows], part.embeddings[rows]
                done += len(part.ids[rows])
                self.progress(step, done, total)

    def sample(self, count: int) -> NDArray[np.float32]:
        """The embeddings of up to `count` rows, chosen uniformly and always the same, float32 [n, dim]."""
        chosen = np.sort(np.random.default_rng(0).permutation(self.rows)[:count])
        blocks, start = [], 0
        for part in self.parts:
            offsets = chosen[(chosen >= start) & (chosen < start + len(part.ids))] - start
            blocks.append(as_float32(part.embeddings[offsets]))
            start += len(part.ids)
        return np.concatenate(blocks)
