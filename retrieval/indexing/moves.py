"""Planning: find known content at new paths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.indexing.files import File
from retrieval.indexing.known import PathIndex


class Movable:
    """Known rows whose files were not listed, by size and content. A row is taken at most once."""

    def __init__(
        self,
        rows: PathIndex,
        unlisted: Sequence[int],
        unreached: Sequence[int],
        sizes: NDArray[np.int64],
        vanished: Callable[[bytes], bool],
    ) -> None:
        """rows: the table; the other arguments name its rows by offset. unlisted: rows of files that were looked for
        and are absent; the first ones are taken first. unreached: rows of files that were not looked for; `vanished` is
        called for such a file only if it has the size of a new file. sizes: int64 [n], of the new
        files."""
        self._rows = rows
        self._vanished = vanished
        self._unlisted = self._by_size(unlisted, sizes)
        self._unreached = self._by_size(unreached, sizes)
        self._by_content: dict[int, dict[bytes, list[int]]] = {}

    def take(self, file: File, content_hash: Callable[[bytes], bytes | None]) -> int | None:
        """The offset of a row with the file's content, or None. The file is read only if such a row
        has its size."""
        candidates = self._of_size(file.size)
        if not candidates or (digest := content_hash(file.path)) is None:
            return None
        offsets = candidates.get(digest)
        return offsets.pop() if offsets else None

    def _by_size(self, offsets: Sequence[int], wanted: NDArray[np.int64]) -> dict[int, list[int]]:
        """Size -> offsets, for the wanted sizes."""
        chosen = np.asarray(offsets, np.int64)
        sizes = np.asarray(self._rows.columns["size"])[chosen]
        groups: dict[int, list[int]] = defaultdict(list)
        for index in np.flatnonzero(np.isin(sizes, wanted)).tolist():
            groups[int(sizes[index])].append(int(chosen[index]))
        return groups

    def _of_size(self, size: int) -> dict[bytes, list[int]]:
        if size not in self._by_content:
            self._by_content[size] = self._contents([*self._unlisted.pop(size, ()), *self._gone_unreached(size)])
        return self._by_content[size]

    def _gone_unreached(self, size: int) -> Iterable[int]:
        return (offset for offset in self._unreached.pop(size, ()) if self._vanished(self._rows.row(offset)["path"]))

    def _contents(self, offsets: Sequence[int]) -> dict[bytes, list[int]]:
        """Content hash -> offsets. The last one is taken first."""
        contents: dict[bytes, list[int]] = defaultdict(list)
        for offset in reversed(offsets):
            contents[self._rows.row(offset)["content_hash"]].append(offset)
        return contents
