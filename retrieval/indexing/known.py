"""What a collection holds, as a plan looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes import collection
from indexes.rows import failures_table

KNOWN_COLUMNS = ("id", "path", "size", "mtime_ns", "ctime_ns", "content_hash")


@dataclass(frozen=True)
class Known:
    """What a collection holds and remembers.

    rows: columns position, id, path, size, mtime_ns, ctime_ns, content_hash. failures: as stored. removed_sizes: int64,
    of the rows that were removed and can still be revived. folders: that were indexed. mounts: folders that were mount
    points when they were last seen. devices: of folders, which drive was there from which id on (see `turns`). next_id:
    of the next row."""

    rows: pa.Table
    failures: pa.Table
    removed_sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    folders: tuple[bytes, ...] = ()
    mounts: tuple[bytes, ...] = ()
    devices: Mapping[bytes, tuple[tuple[int, str], ...]] = field(default_factory=dict)
    next_id: int = 1


def _no_rows() -> pa.Table:
    kinds = {"path": pa.binary(), "content_hash": pa.binary()}
    return pa.table({name: pa.array([], kinds.get(name, pa.int64())) for name in ("position", *KNOWN_COLUMNS)})


NOTHING_KNOWN = Known(_no_rows(), failures_table([]))


def are_below(table: pa.Table, folder: bytes) -> NDArray[np.bool_]:
    """Which rows of a table are of the folder itself, or of what lies in it."""
    return collection.are_below(table["path"], folder)


class PathIndex:
    """Rows of a table by path, with those that were seen. Numbers stay in arrays, since there may be millions."""

    def __init__(self, table: pa.Table) -> None:
        self.columns: dict[str, Any] = {}
        for name in table.column_names:
            column = table[name].combine_chunks()
            is_number = pa.types.is_integer(column.type)
            self.columns[name] = column.to_numpy(zero_copy_only=False) if is_number else column
        self._offsets = {path: offset for offset, path in enumerate(table["path"].to_pylist())}
        self._seen = np.zeros(len(table), np.bool_)

    def __contains__(self, path: bytes) -> bool:
        return path in self._offsets

    def see(self, path: bytes) -> KnownRow | None:
        """The row of a path that is there."""
        offset = self._offsets.get(path)
        if offset is None:
            return None
        self._seen[offset] = True
        return self.row(offset)

    def unseen(self) -> Iterator[tuple[bytes, int]]:
        """Paths that were not seen, and where their rows are in the table."""
        seen = self._seen.tolist()
        return ((path, offset) for path, offset in self._offsets.items() if not seen[offset])

    def seen_without(self, ids: Iterable[int]) -> NDArray[np.int64]:
        """Where the rows are that were seen, but for those with some ids."""
        others = ~np.isin(self.columns["id"], np.fromiter(ids, np.int64))
        return np.flatnonzero(self._seen & others)

    def row(self, offset: int) -> KnownRow:
        return KnownRow(self.columns, offset)


class KnownRow:
    """One row of a table, each value looked up when asked for."""

    __slots__ = ("_columns", "_offset")

    def __init__(self, columns: dict[str, Any], offset: int) -> None:
        self._columns = columns
        self._offset = offset

    def __getitem__(self, name: str) -> Any:
        value = self._columns[name][self._offset]
        return value.as_py() if isinstance(value, pa.Scalar) else int(value)
