"""A collection opened for reading: one commit, which later commits do not change."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.addresses import Addresses, alive_in, contains
from indexes.ann.base import AnnIndex
from indexes.ann.kinds import AnnFile
from indexes.commits import ATTEMPTS, current_name, find_commit
from indexes.errors import CrosslookError, closed_collection, missing_file
from indexes.filters import Filter
from indexes.manifest import Binding, Manifest
from indexes.numbering import Mask, Offset, Position, Positions, RowIds, SegmentIndex
from indexes.paths import ann_folder
from indexes.row_file import read_rows
from indexes.rows import FAILURE_SCHEMA, ROW_SCHEMA, Row
from indexes.search import Nearest, Search
from indexes.segment import Segment, open_segments
from indexes.segment_files import ROW_GROUP

GROUPS_KEPT = 256  # row groups that were read last, in some 60 MB


class Collection:
    """A snapshot of one commit: writers never change what it sees. Open it again to see later commits.

    A row is addressed by its position: segments in the manifest's order, rows in theirs. Positions belong to one
    snapshot, ids are for ever; see `indexes.numbering`. Any number of threads may use it. After `close` all methods
    raise `CrosslookError`, those too that another thread is in, unless they have read what they need."""

    def __init__(self, folder: Path, manifest: Manifest, segments: Sequence[Segment], fault: str | None = None) -> None:
        """fault: what is wrong with CURRENT, where `manifest` is merely the newest one that is whole."""
        self.folder = folder
        self.fault = fault
        self.manifest = manifest
        self.segments = tuple(segments)
        self._is_closed = False
        self._ann = AnnFile(ann_folder(folder), manifest.ann)
        by_index = self.segments  # not self: a cycle would keep files open until the garbage collector runs
        self._row_group = lru_cache(GROUPS_KEPT)(lambda index, group: by_index[index].row_group(group))

    @classmethod
    def open(cls, folder: Path) -> Collection:
        """Raises `CrosslookError` if there is no collection, or it is damaged."""
        for attempt in range(1, ATTEMPTS + 1):
            commit = find_commit(folder)
            if commit is None:
                raise CrosslookError(f"no collection at {folder}: make one with `search index FOLDER`")
            name = commit.manifest.file_name
            try:
                collection = cls(folder, commit.manifest, open_segments(folder, commit.manifest), commit.fault)
                if not collection._ann.is_missing or attempt == ATTEMPTS or current_name(folder) == name:
                    return collection
            except FileNotFoundError as error:
                # A writer may have replaced this commit, and removed it, since CURRENT was read.
                if attempt == ATTEMPTS or commit.fault or current_name(folder) == name:
                    raise missing_file(folder, error) from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close all files and free the ANN index. Closing twice is allowed."""
        self._is_closed = True
        self._ann.close()
        for segment in self.segments:
            segment.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many images count."""
        self._check_open()
        return int(self._addresses.starts[-1]) - len(self._addresses.dead)

    @property
    def binding(self) -> Binding:
        """What its vectors were made with."""
        return self.manifest.binding

    @property
    def starts(self) -> Positions:
        """The position of the first row of each segment and, last, the number of stored rows, dead ones included:
        int64 [segments + 1]."""
        self._check_open()
        return self._addresses.starts

    def check(self, model: str, fingerprint: str) -> None:
        """Raises `CrosslookError` unless the collection was made with this model."""
        self._check_open()
        if fingerprint == self.binding.fingerprint:
            return
        if model == self.binding.model:
            raise CrosslookError(
                f"{self.folder} was made with another version of {model} ({self.binding.fingerprint}, this one is "
                f"{fingerprint}): index again into another collection (-i)"
            )
        raise CrosslookError(
            f"{self.folder} was made with the model {self.binding.model}, not {model}: leave out --model, or name "
            "another collection (-i)"
        )

    def nearest(
        self, queries: NDArray[np.float32], count: int, filters: Sequence[Filter] = (), exact: bool = False
    ) -> Nearest:
        """The `count` most similar images to each query, best first: similarities float32 [q, count] and positions
        int64 [q, count], padded with -inf and -1. queries: float32 [q, dim], unit norm. filters: only images that pass
        all of them.

        With an ANN index, nearly all of the first ten are returned, see `AnnEntry.recall`, and a smaller share of those
        that follow; similarities are exact. exact: compare all rows nevertheless. Raises `ValueError` if `count` is
        less than 1, or the queries have another shape."""
        self._check_open()
        if count < 1:
            raise ValueError(f"cannot return {count} images: count must be 1 or more")
        if queries.ndim != 2 or queries.shape[1] != self.binding.dim:
            raise ValueError(f"queries of shape {queries.shape}: expected (number, {self.binding.dim})")
        if len(queries) and not exact:
            share = self._search.passing_share(filters)
            index = self.ann if self._search.is_worth_an_index(filters, share) else None
            if index is not None:
                return self._search.by_index(index, queries, count, filters, share)
        return self._search.exact(queries, count, filters)

    @property
    def ann(self) -> AnnIndex | None:
        """The ANN index. None if there is none, or if it cannot be read: then all rows are compared."""
        self._check_open()
        return self._ann.index

    @property
    def ann_fault(self) -> str | None:
        """Why the ANN index cannot be read, and the remedy; None if it can be read, or if there is none."""
        self._check_open()
        return self._ann.fault

    def open_ann(self) -> AnnIndex | None:
        """The ANN index, read anew. Raises `CrosslookError` if it cannot be read."""
        self._check_open()
        return self._ann.open()

    @property
    def uncovered(self) -> int:
        """How many rows no ANN index covers, so that every query is compared with them."""
        self._check_open()
        uncovered = self._search.uncovered
        return sum(len(self.segments[index]) if mask is None else int(mask.sum()) for index, mask in uncovered)

    def positions(self, ids: RowIds) -> Positions:
        """Where the rows of some ids are, int64 [n], -1 for ids that no row has or that no longer count."""
        self._check_open()
        return self._addresses.positions(ids)

    def row(self, position: Position) -> Row:
        """The row at a position."""
        return self.rows([position])[0]

    def rows(self, positions: Sequence[Position] | Positions) -> list[Row]:
        """Rows, in the order of the positions."""
        self._check_open()
        indices, offsets = self._addresses.split(positions)
        return [self._row(index, offset) for index, offset in zip(indices.tolist(), offsets.tolist(), strict=True)]

    def _row(self, index: SegmentIndex, offset: Offset) -> Row:
        group, row = divmod(offset, ROW_GROUP)
        values = self._row_group(index, group).slice(row, 1).select(ROW_SCHEMA.names).to_pylist()[0]
        return Row(**values)

    def embeddings(self, positions: Sequence[Position] | Positions) -> NDArray[np.float16]:
        """float16 [n, dim], unit norm, in the order of the positions."""
        self._check_open()
        if not len(positions):
            return np.zeros((0, self.binding.dim), np.float16)
        return read_rows([segment.embeddings for segment in self.segments], *self._addresses.split(positions))

    def regions(self, positions: Sequence[Position] | Positions) -> NDArray[Any]:
        """[n, regions, region_dim], in the stored dtype, in the order of the positions."""
        self._check_open()
        if not len(positions):
            return np.zeros((0, *self.binding.region_shape), self.binding.region_dtype)
        return read_rows([segment.regions for segment in self.segments], *self._addresses.split(positions))

    def table(self, columns: Sequence[str]) -> pa.Table:
        """These columns of the rows that count, with their `position`."""
        return self._table(columns, self.alive)

    def dead(self, columns: Sequence[str]) -> pa.Table:
        """The same of all rows that are stored and do not count."""
        self._check_open()
        none = [np.zeros(len(segment), np.bool_) for segment in self.segments]
        masks = [empty if alive is None else ~alive for empty, alive in zip(none, self._alive, strict=True)]
        return self._table(columns, masks)

    def _table(self, columns: Sequence[str], masks: Sequence[Mask | None]) -> pa.Table:
        tables = []
        for start, segment, mask in zip(self.starts.tolist(), self.segments, masks, strict=False):
            if mask is not None and not mask.any():
                continue
            positions = pa.array(np.arange(start, start + len(segment), dtype=np.int64))
            table = pa.table({"position": positions} | {name: segment.column(name) for name in columns})
            tables.append(table if mask is None else table.filter(pa.array(mask)))
        fields = [pa.field("position", pa.int64()), *(ROW_SCHEMA.field(name) for name in columns)]
        empty = pa.table([pa.array([], field.type) for field in fields], [field.name for field in fields])
        return pa.concat_tables([empty, *tables])

    def failures(self) -> pa.Table:
        """The failures that count: files that could not be read and have not changed since."""
        self._check_open()
        tables = []
        for segment in self.segments:
            table, entries = segment.failures(), segment.deletions.entries
            alive = ~contains(entries[entries >= len(segment)] - len(segment), np.arange(len(table)))
            alive &= ~contains(self._tombstones, table["id"].to_numpy())
            tables.append(table if alive.all() else table.filter(pa.array(alive)))
        return pa.concat_tables([FAILURE_SCHEMA.empty_table(), *tables], promote_options="default")

    @property
    def alive(self) -> list[Mask | None]:
        """For each segment the rows that count, bool [rows], None for all of them."""
        self._check_open()
        return self._alive

    def _check_open(self) -> None:
        if self._is_closed:
            raise closed_collection()

    @cached_property
    def _alive(self) -> list[Mask | None]:
        return [alive_in(segment, self._tombstones) for segment in self.segments]

    @cached_property
    def _tombstones(self) -> RowIds:
        """Ids that are dead, of a collection that only format 1 has written to."""
        return np.asarray(self.manifest.tombstones, dtype=np.int64)

    @cached_property
    def _addresses(self) -> Addresses:
        return Addresses(self.segments, self._alive)

    @cached_property
    def _search(self) -> Search:
        return Search(self.segments, self._alive, self._addresses, self.manifest.ann)
