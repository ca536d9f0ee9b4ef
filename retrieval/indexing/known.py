"""Planning: what a collection holds, as a plan looks at it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.folders import are_in_folder
from indexes.rows import failures_table

KNOWN_COLUMNS = ("id", "path", "size", "mtime_ns", "ctime_ns", "content_hash")


@dataclass(frozen=True)
class Known:
    """What a collection holds and remembers.

    rows: columns position, id, path, size, mtime_ns, ctime_ns, content_hash. failures: as stored. removed_sizes: int64
    [n], the sizes of rows that were removed and can be revived. folders: those that were indexed. mounts: folders that
    were mount points when they were last seen. devices: which drive was in a folder from which id on (see `History`).
    next_id: the id that the next row gets."""

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


def known_of(collection: Collection) -> Known:
    """What this collection holds and remembers."""
    manifest = collection.manifest
    return Known(
        collection.table(KNOWN_COLUMNS),
        collection.failures(),
        collection.dead(["size"])["size"].to_numpy(),
        tuple(map(os.fsencode, manifest.folders)),
        tuple(map(os.fsencode, manifest.mounts)),
        {os.fsencode(folder): history for folder, history in manifest.devices.items()},
        manifest.next_id,
    )


def rows_in_folder(table: pa.Table, folder: bytes) -> NDArray[np.bool_]:
    """bool [rows]: True where the path is the folder itself or lies in it."""
    return are_in_folder(table["path"], folder)


class PathIndex:
    """The rows of a table by path, and which of them were seen. Numbers stay in arrays, since there may be millions.

    An offset is the index of a row in the table."""

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
        """The row of this path, or None. It counts as seen from now on."""
        offset = self._offsets.get(path)
        if offset is None:
            return None
        self._seen[offset] = True
        return self.row(offset)

    def unseen(self) -> Iterator[tuple[bytes, int]]:
        """The paths that were not seen, with the offsets of their rows."""
        seen = self._seen.tolist()
        return ((path, offset) for path, offset in self._offsets.items() if not seen[offset])

    def seen_without(self, ids: Iterable[int]) -> NDArray[np.int64]:
        """int64 [n]: the offsets of the rows that were seen, without those with these ids."""
        others = ~np.isin(self.columns["id"], np.fromiter(ids, np.int64))
        return np.flatnonzero(self._seen & others)

    def row(self, offset: int) -> KnownRow:
        return KnownRow(self.columns, offset)


class KnownRow:
    """One row of a table. A value is looked up when it is asked for."""

    __slots__ = ("_columns", "_offset")

    def __init__(self, columns: dict[str, Any], offset: int) -> None:
        self._columns = columns
        self._offset = offset

    def __getitem__(self, name: str) -> Any:
        value = self._columns[name][self._offset]
        return value.as_py() if isinstance(value, pa.Scalar) else int(value)
