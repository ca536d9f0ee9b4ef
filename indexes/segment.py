"""A segment: an immutable batch of images on disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from indexes.errors import DamagedSegmentError, unreadable
from indexes.files import sync_folder, write_durably
from indexes.manifest import Binding, SegmentEntry
from indexes.row_file import RowFile

ROW_GROUP = 1024
SEGMENT_FILES = ("embeddings.npy", "tokens.npy", "rows.parquet", "failures.parquet")


@dataclass(frozen=True)
class Row:
    """One image. path: absolute, as bytes (names need not be valid Unicode). size: bytes. mtime_ns: nanoseconds.
    content_hash: BLAKE2b-128 of the file. width, height: pixels of the upright picture. taken_at: local time."""

    id: int
    path: bytes
    size: int
    mtime_ns: int
    content_hash: bytes
    width: int
    height: int
    taken_at: datetime | None


@dataclass(frozen=True)
class Failure:
    """One file that could not be read, and why. ctime_ns tells a change of permissions. pixels: how many it has, where
    that was the reason; otherwise 0."""

    id: int
    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    pixels: int
    error: str


ROW_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("content_hash", pa.binary(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("taken_at", pa.timestamp("ms")),
    ]
)
FAILURE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("ctime_ns", pa.int64(), nullable=False),
        pa.field("pixels", pa.int64(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Batch:
    """What becomes a segment: rows and failures, and the rows' embeddings [n, dim] and tokens [n, regions, token_dim],
    each in blocks of any number of rows, so that a merge never holds them all."""

    rows: pa.Table
    failures: pa.Table
    embeddings: Iterable[NDArray[Any]]
    tokens: Iterable[NDArray[Any]]


def rows_table(rows: Sequence[Row]) -> pa.Table:
    return _table(rows, Row, ROW_SCHEMA)


def failures_table(failures: Sequence[Failure]) -> pa.Table:
    return _table(failures, Failure, FAILURE_SCHEMA)


def _table(items: Sequence[Row] | Sequence[Failure], kind: type, schema: pa.Schema) -> pa.Table:
    columns = zip(*(astuple(item) for item in items), strict=True) if items else [()] * len(fields(kind))
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def write_segment(folder: Path, batch: Batch, binding: Binding) -> None:
    """Write the four files of a segment into the new folder `folder`, whole and on disk when this returns."""
    folder.mkdir()
    try:
        _write_files(folder, batch, binding)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)  # on a full disk, half a segment would keep it full
        raise
    sync_folder(folder)
    sync_folder(folder.parent)


def _write_files(folder: Path, batch: Batch, binding: Binding) -> None:
    count = len(batch.rows)
    write_durably(
        folder / "embeddings.npy", lambda file: _save(file, (count, binding.dim), "float16", batch.embeddings)
    )
    write_durably(
        folder / "tokens.npy",
        lambda file: _save(file, (count, *binding.token_shape), binding.token_dtype, batch.tokens),
    )
    write_durably(folder / "rows.parquet", lambda file: pq.write_table(batch.rows, file, row_group_size=ROW_GROUP))
    write_durably(folder / "failures.parquet", lambda file: pq.write_table(batch.failures, file))


def _save(file: IO[bytes], shape: tuple[int, ...], dtype: str, blocks: Iterable[NDArray[Any]]) -> None:
    """Write one NumPy file block by block."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    written = 0
    for block in blocks:
        if block.shape[1:] != shape[1:]:
            raise ValueError(f"a block of shape {block.shape} does not fit {shape}")
        file.write(np.ascontiguousarray(block, dtype=dtype).data)
        written += len(block)
    if written != shape[0]:
        raise ValueError(f"{written} vectors for {shape[0]} rows")


class Segment:
    """A segment opened for reading: arrays and tables are read when asked for. All files are opened at once, so that a
    writer which removes them later takes nothing away.

    embeddings: float16 [rows, dim]. tokens: [rows, regions, token_dim], in the stored dtype.

    Raises `CrosslookError` when a file does not hold what the manifest says, `FileNotFoundError` when one is gone."""

    def __init__(self, folder: Path, entry: SegmentEntry, binding: Binding) -> None:
        self.folder = folder
        self.entry = entry
        self.embeddings = RowFile(folder / "embeddings.npy", (entry.rows, binding.dim), "float16")
        self.tokens = RowFile(folder / "tokens.npy", (entry.rows, *binding.token_shape), binding.token_dtype)
        self._rows = self._open_table("rows.parquet", entry.rows)
        self._failures = self._open_table("failures.parquet", entry.failures) if entry.failures else None

    def __len__(self) -> int:
        return self.entry.rows

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the rows."""
        return self._read(lambda: self._rows.read([name])).column(0)

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
        found = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
        return np.where(self.ids[found] == ids, found, -1)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """int64 [rows], ascending."""
        return self.column("id").to_numpy()

    def table(self) -> pa.Table:
        """All rows."""
        return self._read(self._rows.read)

    def row_group(self, group: int) -> pa.Table:
        """`ROW_GROUP` rows, or what is left of them; the least that can be read."""
        return self._read(lambda: self._rows.read_row_group(group))

    def failures(self) -> pa.Table:
        return self._read(self._failures.read) if self._failures else failures_table([])

    def _open_table(self, name: str, expected: int) -> pq.ParquetFile:
        path = self.folder / name
        if not path.exists():  # Arrow's own error does not carry the name
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
        found = self._read(lambda: pq.ParquetFile(path, memory_map=True))
        if found.metadata.num_rows != expected:
            reason = f"it holds {found.metadata.num_rows} rows, expected {expected}"
            raise DamagedSegmentError(self.folder, name, reason)
        return found

    def _read(self, read: Any) -> Any:
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # Arrow's own OSErrors have none
                raise unreadable(error, self.folder) from error
            raise DamagedSegmentError(self.folder, "a Parquet file", str(error).splitlines()[0]) from error
