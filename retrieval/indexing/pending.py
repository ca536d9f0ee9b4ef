"""What a run has encoded and not committed yet."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.checksums import row_checksums
from indexes.rows import Failure, Row, failures_table, rows_table
from indexes.segment_files import Batch
from retrieval.indexing.plan import Encoding


@dataclass
class Pending:
    """What the next commit will hold; ids are given when it is made.

    embeddings, tokens: of the rows, in blocks. dead: ids of what is replaced by something with the same content.
    removed: of rows whose content may come back; revived: of dead rows whose content did. is_urgent: not to be put off,
    since the next file may end the process."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    embeddings: list[NDArray[Any]] = field(default_factory=list)
    tokens: list[NDArray[Any]] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    revived: list[int] = field(default_factory=list)
    is_urgent: bool = False
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.rows) + len(self.failures)

    def replace(self, encoding: Encoding) -> None:
        """What was known of a file is replaced; a row's content may come back, as when an edit is undone."""
        if encoding.replaces is not None:
            (self.removed if encoding.changed else self.dead).append(encoding.replaces)

    @property
    def is_empty(self) -> bool:
        return not (self.rows or self.failures or self.dead or self.removed or self.revived)

    def batch(self, first_id: int, token_dtype: str) -> Batch:
        """A segment's content, with ids from `first_id`, and checksums of what is stored."""
        pairs = zip(self.embeddings, self.tokens, strict=True)
        blocks = [(np.asarray(vectors, np.float16), np.asarray(tokens, token_dtype)) for vectors, tokens in pairs]
        checksums = [checksum for vectors, tokens in blocks for checksum in row_checksums(vectors, tokens)]
        numbered = enumerate(zip(self.rows, checksums, strict=True), start=first_id)
        rows = [replace(row, id=number, checksum=checksum) for number, (row, checksum) in numbered]
        failures = [replace(item, id=first_id + len(rows) + index) for index, item in enumerate(self.failures)]
        vectors, tokens = [block[0] for block in blocks], [block[1] for block in blocks]
        return Batch(rows_table(rows), failures_table(failures), vectors, tokens)
