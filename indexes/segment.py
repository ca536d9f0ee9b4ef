"""A segment opened for reading: an immutable batch of images on disk."""

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
from indexes.manifest import DEAD, EMBEDDINGS, FAILURES, FILES, ROWS, TOKENS, Binding, PartEntry, SegmentEntry
from indexes.row_file import RowFile
from indexes.rows import FAILURE_SCHEMA, ROW_SCHEMA, column_of, conformed, failures_table
from indexes.segment_files import FOOTER, ROW_GROUP

KNOWN_PARTS = (*FILES, DEAD)
PART_FORMAT = 1  # of all parts so far
_PASSING = re.compile("temporarily unavailable|too many open files|cannot allocate|out of memory|malloc", re.I)

Content = TypeVar("Content")
Values = TypeVar("Values", pa.Table, pa.ChunkedArray)


class Segment:
    """Arrays and tables are read when asked for, by any number of threads. All files are opened at once, so that a
    writer which removes them later takes nothing away.

    embeddings: float16 [rows, dim]. tokens: [rows, regions, token_dim], in the stored dtype.

    Raises `CrosslookError` when a file does not hold what the manifest says or is of a later version,
    `FileNotFoundError` when one is gone."""

    def __init__(self, folder: Path, entry: SegmentEntry, binding: Binding) -> None:
        self.folder = folder
        self.entry = entry
        _refuse_later(folder, entry)
        files = {name: folder / entry.parts.get(name, PartEntry(file)).file for name, file in FILES.items()}
        self.embeddings = RowFile(files[EMBEDDINGS], (entry.rows, binding.dim), "float16")
        self.tokens = RowFile(files[TOKENS], (entry.rows, *binding.token_shape), binding.token_dtype)
        self._reading = Lock()  # Arrow's reader of one Parquet file is not made for several threads
        self._rows = self._open_table(files[ROWS], entry.rows)
        self._failures = self._open_table(files[FAILURES], entry.failures) if entry.failures else None
        self.deletions  # noqa: B018  # opened now, like the others

    def __len__(self) -> int:
        return self.entry.rows

    def with_entry(self, entry: SegmentEntry) -> Segment:
        """The same segment after a commit that gave it another deletion vector; its files stay open."""
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
    def alive(self) -> NDArray[np.bool_] | None:
        """Which rows count, bool [rows]; None for all of them."""
        dead = self.deletions.places[self.deletions.places < len(self)]
        if not len(dead):
            return None
        mask = np.ones(len(self), np.bool_)
        mask[dead] = False
        return mask

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the rows; its default where the segment is of a version that did not have it."""
        stored = name if name in self._rows.schema_arrow.names else "id"
        return self._read(lambda: column_of(self._rows.read([stored]), name, ROW_SCHEMA), len(self))

    @cached_property
    def first_id(self) -> int:
        """The smallest id of the rows, of which there must be some."""
        return self._bound(0, "min")

    @cached_property
    def last_id(self) -> int:
        """The largest."""
        return self._bound(self._rows.metadata.num_row_groups - 1, "max")

    def _bound(self, group: int, which: str) -> int:
        """From the footer, which is read already; `ids` costs reading a column."""
        statistics = self._rows.metadata.row_group(group).column(ROW_SCHEMA.get_field_index("id")).statistics
        if statistics is None or not statistics.has_min_max:
            return int(self.ids[0 if which == "min" else -1])
        return int(getattr(statistics, which))

    def offsets(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows of some ids lie, int64 [n], -1 for ids that no row has."""
        return _places(self.ids, ids)

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where those of some ids, ascending, that the segment has lie among its entries, rows first, failures after
        them, int64, ascending."""
        if not len(ids) or ids[-1] < self.id_span[0] or ids[0] > self.id_span[1]:
            return np.zeros(0, np.int64)
        rows, failures = self.offsets(ids), _places(self.failure_ids, ids)
        return np.sort(np.concatenate([rows[rows >= 0], len(self) + failures[failures >= 0]]))

    @cached_property
    def failure_ids(self) -> NDArray[np.int64]:
        """int64 [failures], ascending."""
        return self.failures()["id"].to_numpy()

    @cached_property
    def id_span(self) -> tuple[int, int]:
        """The smallest and the largest id of all entries, rows and failures; (0, -1) where there are none."""
        spans = [(self.first_id, self.last_id)] if len(self) else []
        spans += [(int(self.failure_ids[0]), int(self.failure_ids[-1]))] if self.entry.failures else []
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else (0, -1)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """int64 [rows], ascending."""
        return self.column("id").to_numpy()

    def table(self) -> pa.Table:
        """All rows, dead ones too."""
        return self._read(lambda: conformed(self._rows.read(), ROW_SCHEMA), len(self))

    def row_group(self, group: int) -> pa.Table:
        """`ROW_GROUP` rows, or what is left of them; the least that can be read."""
        count = min(ROW_GROUP, len(self) - ROW_GROUP * group)
        return self._read(lambda: conformed(self._rows.read_row_group(group), ROW_SCHEMA), count)

    def failures(self) -> pa.Table:
        """All failures, dead ones too."""
        if self._failures is None:
            return failures_table([])
        reader = self._failures
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


def read_counts(folder: Path, part: str) -> int:
    """How many rows a table of a segment of format 1 has. Raises as `Segment` does."""
    path = folder / FILES[part]
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "missing", str(path))
    return int(_checked(folder, lambda: pq.read_metadata(path).num_rows))


def read_footer(folder: Path) -> dict[str, Any] | None:
    """What the footer of a segment's rows says that the segment consists of; None for one of format 1, which does not
    say it. Raises as `Segment` does."""
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
    """Only what a file's content is makes it damaged; a lack of memory, threads or handles passes."""
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


def _places(sorted_ids: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(sorted_ids):
        return np.full(len(ids), -1, np.int64)
    places = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return np.where(sorted_ids[places] == ids, places, -1)


def _refuse_later(folder: Path, entry: SegmentEntry) -> None:
    for name in KNOWN_PARTS:
        part = entry.parts.get(name)
        if part is not None and part.format > PART_FORMAT:
            raise CrosslookError(
                f"{folder / part.file} has format {part.format} of {name}, this version reads {PART_FORMAT}: upgrade "
                "crosslook"
            )
