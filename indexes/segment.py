"""A segment opened for reading: an immutable batch of images on disk.

Its files are its parts: rows, failures, embeddings, regions, and dead, the deletion vector. The manifest keeps for each
part the number of that part's own format, so that one of them can change without the others."""

from __future__ import annotations

import copy
import errno
import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from indexes.deletions import NONE, Deletions, read_deletions
from indexes.errors import CrosslookError, DamagedSegmentError, unreadable
from indexes.manifest import (
    DEAD,
    EMBEDDINGS,
    FAILURES,
    FILES,
    REGIONS,
    ROWS,
    Binding,
    Manifest,
    PartEntry,
    SegmentEntry,
)
from indexes.numbering import EntryOffsets, Mask, Offsets, RowId, RowIds
from indexes.open_files import Closable, admit_files
from indexes.paths import segment_folder
from indexes.row_file import RowFile
from indexes.rows import FAILURE_SCHEMA, ROW_SCHEMA, column_of, conformed, failures_table
from indexes.segment_files import FOOTER, ROW_GROUP

KNOWN_PARTS = (*FILES, DEAD)
PART_FORMAT = 1  # the newest that is read, of every part so far
FILES_A_SEGMENT = 5  # two of arrays, two of tables, and a mapping's own; deletion vectors are closed again
OTHER_FILES = 128  # that a process may have open
_PASSING = re.compile("temporarily unavailable|too many open files|cannot allocate|out of memory|malloc", re.I)

Content = TypeVar("Content")
Values = TypeVar("Values", pa.Table, pa.ChunkedArray)


class Segment:
    """Arrays and tables are read when asked for, by any number of threads. All files are opened at once, so that
    readers keep working after the writer unlinks them.

    embeddings: float16 [rows, dim]. regions: [rows, regions, region_dim], in the stored dtype.

    Raises `CrosslookError` when a file does not hold what the manifest says or is of a later version,
    `FileNotFoundError` when one is gone."""

    def __init__(self, folder: Path, entry: SegmentEntry, binding: Binding) -> None:
        self.folder = folder
        self.entry = entry
        _refuse_later(folder, entry)
        files = {name: folder / entry.parts.get(name, PartEntry(file)).file for name, file in FILES.items()}
        self.embeddings = RowFile(files[EMBEDDINGS], (entry.rows, binding.dim), "float16")
        self.regions = RowFile(files[REGIONS], (entry.rows, *binding.region_shape), binding.region_dtype)
        self._reading = Lock()  # Arrow's reader of one Parquet file is not made for several threads
        self._rows = Closable(self._open_table(files[ROWS], entry.rows))
        self._failures = Closable(self._open_table(files[FAILURES], entry.failures)) if entry.failures else None
        self.deletions  # noqa: B018  # opened now, like the others

    def __len__(self) -> int:
        """How many rows there are, dead ones included."""
        return self.entry.rows

    def close(self) -> None:
        """Close all files, also those of segments that `with_entry` made of this one; each once nobody reads it any
        more."""
        for file in (self.embeddings, self.regions, self._rows, self._failures):
            if file is not None:
                file.close()

    def with_entry(self, entry: SegmentEntry) -> Segment:
        """The same segment after a commit that gave it another deletion vector. Both share their open files."""
        if entry == self.entry:
            return self
        later = copy.copy(self)
        later.entry = entry
        for name in ("deletions", "alive"):
            later.__dict__.pop(name, None)
        later.deletions  # noqa: B018
        return later

    @cached_property
    def deletions(self) -> Deletions:
        """Which entries no longer count."""
        part = self.entry.parts.get(DEAD)
        return NONE if part is None else read_deletions(self.folder, part, self.entry.rows + self.entry.failures)

    @cached_property
    def alive(self) -> Mask | None:
        """Which rows count, bool [rows]; None for all of them."""
        dead = self.deletions.entries[self.deletions.entries < len(self)]
        if not len(dead):
            return None
        mask = np.ones(len(self), np.bool_)
        mask[dead] = False
        return mask

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the rows; its default where the segment is of a version that did not have it."""
        reader = self._rows.get()
        stored = name if name in reader.schema_arrow.names else "id"
        return self._read(lambda: column_of(reader.read([stored]), name, ROW_SCHEMA), len(self))

    @cached_property
    def first_id(self) -> RowId:
        """The smallest id of the rows, of which there must be some."""
        return self._bound(0, "min")

    @cached_property
    def last_id(self) -> RowId:
        """The largest."""
        return self._bound(-1, "max")

    def _bound(self, group: int, which: str) -> RowId:
        """From the footer, which is read already; `ids` costs reading a column. group: -1 is the last."""
        metadata = self._rows.get().metadata
        row_group = metadata.row_group(group % metadata.num_row_groups)
        statistics = row_group.column(ROW_SCHEMA.get_field_index("id")).statistics
        if statistics is None or not statistics.has_min_max:
            return int(self.ids[0 if which == "min" else -1])
        return int(getattr(statistics, which))

    def offsets(self, ids: RowIds) -> Offsets:
        """Where the rows of some ids are, int64 [n], -1 for ids that no row has."""
        return _indices_of(self.ids, ids)

    def entry_offsets(self, ids: RowIds) -> EntryOffsets:
        """Where those of some ids, ascending, that the segment has are among its entries, rows first, failures after
        them: int64, ascending."""
        if not len(ids) or ids[-1] < self.id_span[0] or ids[0] > self.id_span[1]:
            return np.zeros(0, np.int64)
        rows, failures = self.offsets(ids), _indices_of(self.failure_ids, ids)
        return np.sort(np.concatenate([rows[rows >= 0], len(self) + failures[failures >= 0]]))

    @cached_property
    def failure_ids(self) -> RowIds:
        """int64 [failures], ascending."""
        return self.failures()["id"].to_numpy()

    @cached_property
    def id_span(self) -> tuple[RowId, RowId]:
        """The smallest and the largest id of all entries, rows and failures; (0, -1) where there are none."""
        spans = [(self.first_id, self.last_id)] if len(self) else []
        spans += [(int(self.failure_ids[0]), int(self.failure_ids[-1]))] if self.entry.failures else []
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else (0, -1)

    @cached_property
    def ids(self) -> RowIds:
        """int64 [rows], ascending."""
        return self.column("id").to_numpy()

    def table(self) -> pa.Table:
        """All rows, dead ones too."""
        reader = self._rows.get()
        return self._read(lambda: conformed(reader.read(), ROW_SCHEMA), len(self))

    def row_group(self, group: int) -> pa.Table:
        """`ROW_GROUP` rows, or what is left of them; the least that can be read."""
        count = min(ROW_GROUP, len(self) - ROW_GROUP * group)
        reader = self._rows.get()
        return self._read(lambda: conformed(reader.read_row_group(group), ROW_SCHEMA), count)

    def failures(self) -> pa.Table:
        """All failures, dead ones too."""
        if self._failures is None:
            return failures_table([])
        reader = self._failures.get()
        return self._read(lambda: conformed(reader.read(), FAILURE_SCHEMA), self.entry.failures)

    def _open_table(self, path: Path, expected: int) -> pq.ParquetFile:
        if not path.exists():  # Arrow's own error does not carry the name
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
        reader = _checked(self.folder, lambda: pq.ParquetFile(path, memory_map=True, page_checksum_verification=True))
        if reader.metadata.num_rows != expected:
            reason = f"it holds {reader.metadata.num_rows} rows, expected {expected}"
            raise DamagedSegmentError(self.folder, path.name, reason)
        return reader

    def _read(self, read: Callable[[], Values], expected: int) -> Values:
        with self._reading:
            values = _checked(self.folder, read)
        if len(values) != expected:
            raise DamagedSegmentError(self.folder, "a Parquet file", f"{len(values)} values, expected {expected}")
        return values


def open_segments(folder: Path, manifest: Manifest) -> list[Segment]:
    """The segments of a commit, in its order. folder: of the collection. Raises as `Segment` does."""
    admit_segments(len(manifest.segments))
    return [Segment(segment_folder(folder, entry.number), entry, manifest.binding) for entry in manifest.segments]


def admit_segments(count: int) -> None:
    """Let the files of so many segments be open, as far as the system allows it."""
    admit_files(FILES_A_SEGMENT * count + OTHER_FILES)


def read_counts(folder: Path, part: str) -> int:
    """How many rows a table has, of a segment of format 1, which has no footer that says it. Raises as `Segment`
    does."""
    path = folder / FILES[part]
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "missing", str(path))
    return int(_checked(folder, lambda: pq.read_metadata(path).num_rows))


def read_footer(folder: Path) -> dict[str, Any] | None:
    """What the footer of a segment's rows says of the segment, see `segment_files`; None for one of format 1, which has
    no such footer. Raises as `Segment` does."""
    path = folder / FILES[ROWS]
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "missing", str(path))
    metadata = _checked(folder, lambda: pq.read_schema(path).metadata) or {}
    if FOOTER not in metadata:
        return None
    try:
        footer = json.loads(metadata[FOOTER])
    except ValueError as error:
        raise DamagedSegmentError(folder, path.name, "its footer is damaged") from error
    return footer if isinstance(footer, dict) else None


def _checked(folder: Path, read: Callable[[], Content]) -> Content:
    """What `read` returns. Only wrong content is damage; a lack of memory, threads or file handles passes."""
    try:
        return read()
    except MemoryError as error:  # Arrow's own too
        raise CrosslookError(f"cannot read {folder}: there is not enough memory now") from error
    except OSError as error:
        if error.errno is not None:  # Arrow's own OSErrors have none
            raise unreadable(error, folder) from error
        reason = str(error).splitlines()[0]
        if _PASSING.search(reason):
            raise CrosslookError(f"cannot read {folder} now: {reason}") from error
        raise DamagedSegmentError(folder, "a Parquet file", reason) from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise DamagedSegmentError(folder, "a Parquet file", str(error).splitlines()[0]) from error
    except pa.ArrowException as error:
        raise CrosslookError(f"cannot read {folder} now: {str(error).splitlines()[0]}") from error


def _indices_of(sorted_ids: RowIds, ids: RowIds) -> NDArray[np.int64]:
    if not len(sorted_ids):
        return np.full(len(ids), -1, np.int64)
    indices = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return np.where(sorted_ids[indices] == ids, indices, -1)


def _refuse_later(folder: Path, entry: SegmentEntry) -> None:
    for name in KNOWN_PARTS:
        part = entry.parts.get(name)
        if part is not None and part.format > PART_FORMAT:
            raise CrosslookError(
                f"{folder / part.file} has format {part.format} of {name}, this version reads {PART_FORMAT}: upgrade "
                "crosslook"
            )
