"""Find known content at new paths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.indexing.known import PathIndex
from retrieval.indexing.listing import File


class Movable:
    """Known rows whose file is not where it was, by size and content. Each is taken once."""

    def __init__(
        self,
        rows: PathIndex,
        unlisted: Sequence[int],
        elsewhere: Sequence[int],
        sizes: NDArray[np.int64],
        vanished: Callable[[bytes], bool],
    ) -> None:
        """unlisted: rows of files that were looked for and are not there; those that come first are taken first.
        elsewhere: rows of files that were not looked for; whether they are there is asked where one has the size of a
        new file. sizes: of the new files."""
        self._rows = rows
        self._vanished = vanished
        self._unlisted = self._by_size(unlisted, sizes)
        self._elsewhere = self._by_size(elsewhere, sizes)
        self._by_content: dict[int, dict[bytes, list[int]]] = {}

    def take(self, file: File, content_hash: Callable[[bytes], bytes | None]) -> int | None:
        """Where the row of this content is in the table, None where there is none. A file is read only where its size
        is that of such a row."""
        candidates = self._of_size(file.size)
        if not candidates or (digest := content_hash(file.path)) is None:
            return None
        offsets = candidates.get(digest)
        return offsets.pop() if offsets else None

    def _by_size(self, offsets: Sequence[int], wanted: NDArray[np.int64]) -> dict[int, list[int]]:
        """Only those of a size that is wanted."""
        chosen = np.asarray(offsets, np.int64)
        sizes = np.asarray(self._rows.columns["size"])[chosen]
        groups: dict[int, list[int]] = defaultdict(list)
        for index in np.flatnonzero(np.isin(sizes, wanted)).tolist():
            groups[int(sizes[index])].append(int(chosen[index]))
        return groups

    def _of_size(self, size: int) -> dict[bytes, list[int]]:
        if size not in self._by_content:
            self._by_content[size] = self._contents([*self._unlisted.pop(size, ()), *self._gone_elsewhere(size)])
        return self._by_content[size]

    def _gone_elsewhere(self, size: int) -> Iterable[int]:
        return (offset for offset in self._elsewhere.pop(size, ()) if self._vanished(self._rows.row(offset)["path"]))

    def _contents(self, offsets: Sequence[int]) -> dict[bytes, list[int]]:
        """Content -> offsets, the one to take first last."""
        contents: dict[bytes, list[int]] = defaultdict(list)
        for offset in reversed(offsets):
            contents[self._rows.row(offset)["content_hash"]].append(offset)
        return contents
