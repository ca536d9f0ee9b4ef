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
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.ann import FEWEST_ROWS, Ann, unusable_ann
from indexes.errors import CrosslookError, DamagedSegmentError
from indexes.exact import nearest
from indexes.manifest import Binding, Manifest, current_manifest, damaged, orphaned_manifest, read_manifest
from indexes.open_files import admit_files
from indexes.row_file import RowFile, read_rows
from indexes.segment import FAILURE_SCHEMA, ROW_GROUP, Row, Segment

ATTEMPTS = 5
FILES_A_SEGMENT = 5  # two of arrays, two of tables, and a mapping's own
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

    def __init__(self, folder: Path, manifest: Manifest, segments: Sequence[Segment]) -> None:
        self.folder = folder
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
            name = current_manifest(folder)
            if name is None:
                name = orphaned_manifest(folder)
            if name is None:
                raise CrosslookError(f"no collection at {folder}: make one with `search index FOLDER`")
            try:
                manifest = read_manifest(folder, name)
                found = cls(folder, manifest, open_segments(folder, manifest))
                is_whole = manifest.ann is None or found._ann_file is not None
                if is_whole or attempt == ATTEMPTS or current_manifest(folder) == name:
                    return found
            except FileNotFoundError as error:
                # A writer may have replaced this commit, and removed it, since CURRENT was read.
                if attempt == ATTEMPTS or current_manifest(folder) in (name, None):
                    raise missing_file(folder, name, error) from error
        raise AssertionError("unreachable")

    def __len__(self) -> int:
        """How many images count."""
        return int(sum(len(segment) if alive is None else alive.sum() for segment, alive in self.parts))

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
                f"{fingerprint}): index again into another --index, or delete it first"
            )
        raise CrosslookError(
            f"{self.folder} was made with the model {self.binding.model}, not {model}: leave out --model, or use "
            "another --index"
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

    @cached_property
    def _ann(self) -> Ann | CrosslookError | None:
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
        is_there = (owners >= 0) & (ids <= spans.last_ids[owners]) & (offsets >= 0) & ~np.isin(ids, self._dead)
        return np.where(is_there, spans.starts[owners] + offsets, -1)

    @cached_property
    def _dead(self) -> NDArray[np.int64]:
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
        return Row(**self._row_group(index, group).slice(place, 1).to_pylist()[0])

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
        parts = []
        for start, (segment, alive) in zip(self.starts, self.parts, strict=False):
            positions = pa.array(np.arange(start, start + len(segment), dtype=np.int64))
            part = pa.table({"position": positions} | {name: segment.column(name) for name in columns})
            parts.append(part if alive is None else part.filter(pa.array(alive)))
        return pa.concat_tables(parts) if parts else pa.table({name: [] for name in ("position", *columns)})

    def failures(self) -> pa.Table:
        """The failures that count: files that could not be read and have not changed since."""
        import pyarrow.compute as pc  # which few queries need

        parts = [segment.failures() for segment in self.segments]
        found = pa.concat_tables([FAILURE_SCHEMA.empty_table(), *parts])
        return found.filter(pc.invert(pc.is_in(found["id"], pa.array(self.manifest.tombstones, pa.int64()))))

    @cached_property
    def parts(self) -> list[tuple[Segment, NDArray[np.bool_] | None]]:
        """Each segment with the mask of its rows that count; None for all of them."""
        return [(segment, _alive(segment, self._dead)) for segment in self.segments]

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


def missing_file(folder: Path, manifest: str, error: FileNotFoundError) -> CrosslookError:
    """What to say where a commit names a file that is not there."""
    path = Path(error.filename or manifest)
    if path.name == manifest:
        return damaged(folder / "CURRENT", f"it names {manifest}, which is missing")
    return DamagedSegmentError(path.parent, path.name, "it is missing")


def folder_prefix(folder: bytes) -> bytes:
    """What every path below the folder begins with."""
    return folder.rstrip(os.sep.encode()) + os.sep.encode()


def _alive(segment: Segment, dead: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    if not len(dead) or not len(segment):
        return None
    low, high = np.searchsorted(dead, [segment.first_id, segment.last_id + 1])
    if low == high:
        return None
    found = np.isin(segment.ids, dead)
    return ~found if found.any() else None


def _is_below(segment: Segment, folders: Sequence[bytes]) -> NDArray[np.bool_]:
    import pyarrow.compute as pc  # which few queries need

    found = np.zeros(len(segment), np.bool_)
    if len(segment):
        paths = segment.column("path")
        for folder in folders:
            found |= pc.or_(pc.starts_with(paths, folder_prefix(folder)), pc.equal(paths, folder)).to_numpy()
    return found


def _by_owner(owners: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each owner, ascending, and where it is among them."""
    order = np.argsort(owners, kind="stable")
    changes = np.flatnonzero(np.diff(owners[order])) + 1
    for low, high in pairwise([0, *changes.tolist(), len(order)]):
        if low < high:
            yield int(owners[order[low]]), order[low:high]


def _both(first: NDArray[np.bool_] | None, second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return second if first is None else first & second
