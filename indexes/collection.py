"""A collection opened for reading: one commit, seen whole."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.ann import FEWEST_ROWS, Ann, unusable_ann
from indexes.commits import ATTEMPTS, current_name, find_commit
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.exact import nearest
from indexes.manifest import Binding, Manifest
from indexes.open_files import admit_files
from indexes.row_file import RowFile, read_rows
from indexes.rows import FAILURE_SCHEMA, ROW_SCHEMA, Row
from indexes.segment import Segment
from indexes.segment_files import ROW_GROUP

FILES_A_SEGMENT = 5  # two of arrays, two of tables, and a mapping's own; deletion vectors are closed again
OTHER_FILES = 128  # that a process may have open
GROUPS_KEPT = 256  # row groups that were read last, in some 60 MB
SHORTLISTED_A_RESULT = 4
LEAST_SHARE = 0.25  # of the rows inside the folders asked for, below which they are compared one by one


@dataclass(frozen=True)
class _Spans:
    """The segments that have rows; of each, int64, the position of its first row, its first id and its last, and
    whether it has all ids between them."""

    segments: list[Segment]
    starts: NDArray[np.int64]
    first_ids: NDArray[np.int64]
    last_ids: NDArray[np.int64]
    whole: NDArray[np.bool_]


class Collection:
    """A snapshot. Writers never change what it sees; open again to see later commits.

    An image is addressed by its position: segments in the manifest's order, rows in theirs. Positions belong to one
    snapshot, ids are for ever."""

    def __init__(self, folder: Path, manifest: Manifest, segments: Sequence[Segment], fault: str | None = None) -> None:
        """fault: what is wrong with CURRENT, where `manifest` is merely the newest one that is whole."""
        self.folder = folder
        self.fault = fault
        self._opening = Lock()
        self.manifest = manifest
        self.segments = kept = tuple(segments)
        self.starts: NDArray[np.int64] = np.cumsum([0, *(len(segment) for segment in segments)], dtype=np.int64)
        self._ann_file: IO[bytes] | None = None
        self._row_group = lru_cache(GROUPS_KEPT)(lambda index, group: kept[index].row_group(group))
        if manifest.ann is not None:
            with suppress(OSError):
                self._ann_file = (ann_folder(folder) / manifest.ann.file_name).open("rb")

    @classmethod
    def open(cls, folder: Path) -> Collection:
        """Raises `CrosslookError` where there is no collection, or it is damaged."""
        for attempt in range(1, ATTEMPTS + 1):
            commit = find_commit(folder)
            if commit is None:
                raise CrosslookError(f"no collection at {folder}: make one with `search index FOLDER`")
            name = commit.manifest.file_name
            try:
                collection = cls(folder, commit.manifest, open_segments(folder, commit.manifest), commit.fault)
                is_complete = commit.manifest.ann is None or collection._ann_file is not None
                if is_complete or attempt == ATTEMPTS or current_name(folder) == name:
                    return collection
            except FileNotFoundError as error:
                # A writer may have replaced this commit, and removed it, since CURRENT was read.
                if attempt == ATTEMPTS or commit.fault or current_name(folder) == name:
                    raise missing_file(folder, error) from error
        raise AssertionError("unreachable")

    def __len__(self) -> int:
        """How many images count."""
        return int(self.starts[-1]) - len(self._dead_positions)

    @property
    def binding(self) -> Binding:
        return self.manifest.binding

    def check(self, model: str, fingerprint: str) -> None:
        """Raises `CrosslookError` unless the collection was made with this model."""
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
        self, queries: NDArray[np.float32], k: int, below: Sequence[bytes] = (), exact: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k most similar images to each query, best first: similarities float32 [q, k] and positions int64 [q, k],
        padded with -inf and -1. queries: float32 [q, dim], unit norm. below: only images in one of these folders.

        Where there is an ANN index it finds nearly all of the first ten, see `AnnEntry.recall`, and somewhat fewer of
        those that follow; similarities are exact. exact: compare all rows nevertheless."""
        inside = [_is_below(segment, below) for segment in self.segments] if below else None
        share = 1.0 if inside is None else sum(int(mask.sum()) for mask in inside) / max(int(self.starts[-1]), 1)
        few = inside is not None and (share < LEAST_SHARE or share * self.starts[-1] <= FEWEST_ROWS)
        if len(queries) and not exact and not few and self.ann is not None:
            each = [self._nearest_by_ann(self.ann, query, k, inside, share) for query in queries]
            found = [one for one in each if one is not None]
            if len(found) == len(queries):
                return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])
        masks = [alive for _, alive in self.parts]
        if inside is not None:
            masks = [_both(mask, there) for mask, there in zip(masks, inside, strict=True)]
        return nearest(queries, [segment.embeddings.mapped for segment in self.segments], masks, k)

    @property
    def ann(self) -> Ann | None:
        """The ANN index, None where there is none, or it cannot be read: then all rows are compared."""
        return self._ann if isinstance(self._ann, Ann) else None

    @property
    def ann_fault(self) -> str | None:
        """Why it cannot be read, and what to do; None where it can be, or there is none."""
        return str(self._ann) if isinstance(self._ann, CrosslookError) else None

    @property
    def _ann(self) -> Ann | CrosslookError | None:
        with self._opening:  # by one thread: it may be as large as all else together
            return self._opened_ann

    @cached_property
    def _opened_ann(self) -> Ann | CrosslookError | None:
        try:
            return self.open_ann()
        except CrosslookError as error:
            return error

    def open_ann(self) -> Ann | None:
        """The ANN index, anew. Raises `CrosslookError` where it cannot be read."""
        entry = self.manifest.ann
        if entry is None:
            return None
        if self._ann_file is None:
            raise unusable_ann(ann_folder(self.folder) / entry.file_name, "it is missing, or not readable")
        return Ann(self._ann_file, entry)

    def _nearest_by_ann(
        self, ann: Ann, query: NDArray[np.float32], k: int, inside: Sequence[NDArray[np.bool_]] | None, share: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """The k nearest of one query, [1, k], of what the index covers by its shortlist, and of all other rows; None
        where too few of the shortlist count, and all rows must be compared. share: of the rows that are inside."""
        count = math.ceil(max(ann.entry.shortlist, SHORTLISTED_A_RESULT * k) / share)
        listed = np.sort(self.positions(ann.shortlist(query[None], count)[0]))
        listed = listed[listed >= 0]
        if inside is not None:
            owners = np.searchsorted(self.starts, listed, side="right") - 1
            there = [inside[owner][at - self.starts[owner]] for owner, at in zip(owners, listed, strict=True)]
            listed = listed[np.array(there, np.bool_)]
        if len(listed) < k:
            return None
        rest = self._uncovered
        masks = [mask if inside is None else _both(mask, inside[index]) for index, mask in rest]
        arrays = [self.embeddings(listed), *(self.segments[index].embeddings.mapped for index, _ in rest)]
        similarities, places = nearest(query[None], arrays, [None, *masks], k)
        where = [listed, *(np.arange(self.starts[index], self.starts[index + 1]) for index, _ in rest)]
        positions = np.where(places < 0, -1, np.concatenate(where)[places])
        order = np.lexsort((positions, -similarities), axis=1)  # equals by position, wherever they were found
        return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(positions, order, axis=1)

    @cached_property
    def _uncovered(self) -> list[tuple[int, NDArray[np.bool_] | None]]:
        """The segments that have rows which no ANN index covers, with the mask of those of them that count."""
        last_id = 0 if self.manifest.ann is None else self.manifest.ann.last_id
        found = []
        for index, (segment, alive) in enumerate(self.parts):
            if len(segment) and segment.last_id > last_id:
                after = segment.first_id > last_id
                found.append((index, alive if after else _both(alive, segment.ids > last_id)))
        return found

    @property
    def uncovered(self) -> int:
        """How many rows no ANN index covers, so that every query is compared with them."""
        return sum(len(self.segments[index]) if mask is None else int(mask.sum()) for index, mask in self._uncovered)

    def positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows of some ids are, int64 [n], -1 for ids that no row has or that no longer count."""
        spans = self._spans
        if not len(spans.segments):
            return np.full(len(ids), -1, np.int64)
        owners = np.searchsorted(spans.first_ids, ids, side="right") - 1
        offsets = ids - spans.first_ids[owners]
        for index, mine in _by_owner(np.where(spans.whole[owners], -1, owners)):
            if index >= 0:
                offsets[mine] = spans.segments[index].offsets(ids[mine])
        positions = spans.starts[owners] + offsets
        is_alive = ~_contains(self._dead_positions, positions)
        return np.where((owners >= 0) & (ids <= spans.last_ids[owners]) & (offsets >= 0) & is_alive, positions, -1)

    @cached_property
    def _dead_positions(self) -> NDArray[np.int64]:
        """Of the rows that no longer count, int64, ascending."""
        masks = [(start, alive) for start, (_, alive) in zip(self.starts.tolist(), self.parts, strict=False)]
        dead = [start + np.flatnonzero(~alive) for start, alive in masks if alive is not None]
        return np.concatenate([np.zeros(0, np.int64), *dead])

    @cached_property
    def _tombstones(self) -> NDArray[np.int64]:
        """Ids that are dead, of a collection that only format 1 has written to."""
        return np.asarray(self.manifest.tombstones, dtype=np.int64)

    @cached_property
    def _spans(self) -> _Spans:
        pairs = zip(self.starts.tolist(), self.segments, strict=False)
        filled = [(start, segment) for start, segment in pairs if len(segment)]
        ints = [(start, segment.first_id, segment.last_id, len(segment)) for start, segment in filled]
        starts, first_ids, last_ids, lengths = np.array(ints, np.int64).reshape(-1, 4).T
        whole = last_ids - first_ids + 1 == lengths
        return _Spans([segment for _, segment in filled], starts, first_ids, last_ids, whole)

    def row(self, position: int) -> Row:
        return self.rows([position])[0]

    def rows(self, positions: Sequence[int] | NDArray[np.int64]) -> list[Row]:
        """Some rows, in the order of the positions."""
        wanted = np.asarray(positions, dtype=np.int64)
        owners = np.searchsorted(self.starts, wanted, side="right") - 1
        return [
            self._row(index, position - int(self.starts[index]))
            for index, position in zip(owners.tolist(), wanted.tolist(), strict=True)
        ]

    def _row(self, index: int, offset: int) -> Row:
        group, place = divmod(offset, ROW_GROUP)
        values = self._row_group(index, group).slice(place, 1).select(ROW_SCHEMA.names).to_pylist()[0]
        return Row(**values)

    def embeddings(self, positions: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float16]:
        """float16 [n, dim], unit norm."""
        if not len(positions):
            return np.zeros((0, self.binding.dim), np.float16)
        return self._read(positions, [segment.embeddings for segment in self.segments])

    def tokens(self, positions: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """[n, regions, token_dim], in the stored dtype."""
        if not len(positions):
            return np.zeros((0, *self.binding.token_shape), self.binding.token_dtype)
        return self._read(positions, [segment.tokens for segment in self.segments])

    def table(self, columns: Sequence[str]) -> pa.Table:
        """These columns of the rows that count, with their `position`."""
        return self._table(columns, [alive for _, alive in self.parts])

    def removed(self, columns: Sequence[str]) -> pa.Table:
        """The same of rows that no merge drops before `optimize`, since their content may come back."""
        masks = []
        for segment in self.segments:
            deletions = segment.deletions
            mask = np.zeros(len(segment) + segment.entry.failures, np.bool_)
            mask[deletions.places[deletions.removed]] = True
            masks.append(mask[: len(segment)])
        return self._table(columns, masks)

    def dead(self, columns: Sequence[str]) -> pa.Table:
        """The same of all rows that are stored and do not count."""
        none = [np.zeros(len(segment), np.bool_) for segment in self.segments]
        masks = [empty if alive is None else ~alive for empty, (_, alive) in zip(none, self.parts, strict=True)]
        return self._table(columns, masks)

    def _table(self, columns: Sequence[str], masks: Sequence[NDArray[np.bool_] | None]) -> pa.Table:
        parts = []
        for start, segment, mask in zip(self.starts, self.segments, masks, strict=False):
            if mask is not None and not mask.any():
                continue
            positions = pa.array(np.arange(start, start + len(segment), dtype=np.int64))
            part = pa.table({"position": positions} | {name: segment.column(name) for name in columns})
            parts.append(part if mask is None else part.filter(pa.array(mask)))
        fields = [pa.field("position", pa.int64()), *(ROW_SCHEMA.field(name) for name in columns)]
        empty = pa.table([pa.array([], field.type) for field in fields], [field.name for field in fields])
        return pa.concat_tables([empty, *parts])

    def failures(self) -> pa.Table:
        """The failures that count: files that could not be read and have not changed since."""
        parts = []
        for segment in self.segments:
            table, places = segment.failures(), segment.deletions.places
            alive = ~_contains(places[places >= len(segment)] - len(segment), np.arange(len(table)))
            alive &= ~_contains(self._tombstones, table["id"].to_numpy())
            parts.append(table if alive.all() else table.filter(pa.array(alive)))
        return pa.concat_tables([FAILURE_SCHEMA.empty_table(), *parts], promote_options="default")

    @cached_property
    def parts(self) -> list[tuple[Segment, NDArray[np.bool_] | None]]:
        """Each segment with the mask of its rows that count; None for all of them."""
        return [(segment, _alive(segment, self._tombstones)) for segment in self.segments]

    def _read(self, positions: Sequence[int] | NDArray[np.int64], files: Sequence[RowFile]) -> NDArray[Any]:
        """Rows of the segments' files, in the order of the positions."""
        wanted = np.asarray(positions, dtype=np.int64)
        owners = np.searchsorted(self.starts, wanted, side="right") - 1
        return read_rows(files, owners, wanted - self.starts[owners])


def open_segments(folder: Path, manifest: Manifest) -> list[Segment]:
    admit_files(FILES_A_SEGMENT * len(manifest.segments) + OTHER_FILES)
    return [Segment(segment_folder(folder, entry.number), entry, manifest.binding) for entry in manifest.segments]


def segment_folder(folder: Path, number: int) -> Path:
    return folder / "segments" / f"{number:06d}"


def ann_folder(folder: Path) -> Path:
    return folder / "ann"


def missing_file(folder: Path, error: FileNotFoundError) -> CrosslookError:
    """What to say where a commit names a file that is not there."""
    path = Path(error.filename or folder)
    return DamagedSegmentError(path.parent, path.name, "it is missing")


def folder_prefix(folder: bytes) -> bytes:
    """What every path below the folder begins with."""
    return folder.rstrip(os.sep.encode()) + os.sep.encode()


def _alive(segment: Segment, tombstones: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Which rows count; tombstones: ids, ascending, that do not, besides what the segment's own deletions say."""
    alive = segment.alive
    if not len(tombstones) or not len(segment):
        return alive
    low, high = np.searchsorted(tombstones, [segment.first_id, segment.last_id + 1])
    if low == high:
        return alive
    dead = np.isin(segment.ids, tombstones[low:high])
    return _both(alive, ~dead) if dead.any() else alive


def _contains(ascending: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the values are among those that ascend."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[places] == values)


def are_below(paths: pa.ChunkedArray, folder: bytes) -> NDArray[np.bool_]:
    """Which paths are the folder itself, or lie in it."""
    import pyarrow.compute as pc  # which few queries need

    below = pc.or_(pc.starts_with(paths, folder_prefix(folder)), pc.equal(paths, folder))
    return np.asarray(below.to_numpy(), np.bool_)


def _is_below(segment: Segment, folders: Sequence[bytes]) -> NDArray[np.bool_]:
    mask = np.zeros(len(segment), np.bool_)
    if len(segment):
        paths = segment.column("path")
        for folder in folders:
            mask |= are_below(paths, folder)
    return mask


def _by_owner(owners: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each owner, ascending, and where it is among them."""
    order = np.argsort(owners, kind="stable")
    changes = np.flatnonzero(np.diff(owners[order])) + 1
    for low, high in pairwise([0, *changes.tolist(), len(order)]):
        if low < high:
            yield int(owners[order[low]]), order[low:high]


def _both(first: NDArray[np.bool_] | None, second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return second if first is None else first & second
