"""Writing: the content of the next commit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from indexes.rows import Failure
from indexes.segment_files import Batch
from retrieval.indexing.copying import Copies
from retrieval.indexing.encoding import EncodedFiles, batch_of
from retrieval.indexing.plan import Encoding


@dataclass
class Pending:
    """What the next commit will hold; ids are given when it is made.

    blocks: rows with their embeddings and regions, and failures. dead: ids of rows and failures that are replaced by
    something with the same content. removed: ids of rows whose content may come back. revived: ids of dead rows whose
    content came back. is_urgent: commit at once, since the next file may end the process. since: monotonic seconds."""

    blocks: list[EncodedFiles] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    revived: list[int] = field(default_factory=list)
    is_urgent: bool = False
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        """How many rows and failures there are."""
        return sum(len(block.rows) + len(block.failures) for block in self.blocks)

    @property
    def nbytes(self) -> int:
        """Of embeddings and regions."""
        return sum(block.embeddings.nbytes + block.regions.nbytes for block in self.blocks)

    @property
    def failures(self) -> Iterator[Failure]:
        return (failure for block in self.blocks for failure in block.failures)

    def add(self, encoded: EncodedFiles) -> None:
        if encoded.rows or encoded.failures:
            self.blocks.append(encoded)

    def add_copies(self, copies: Copies) -> None:
        if copies.copied is not None:
            self.add(copies.copied)
        self.revived += copies.revived

    def replace(self, encoding: Encoding) -> None:
        """Drops the known row or failure of a file. The content of a row may come back, as when an edit is undone."""
        if encoding.replaces is not None:
            (self.removed if encoding.changed else self.dead).append(encoding.replaces)

    @property
    def is_empty(self) -> bool:
        return not (len(self) or self.dead or self.removed or self.revived)

    def batch(self, first_id: int) -> Batch | None:
        """The content of a segment, with ids from `first_id`; None if nothing is added."""
        return batch_of(self.blocks, first_id) if len(self) else None
