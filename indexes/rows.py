"""What is known of an image, and of a file that is none: values, and the tables that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, astuple, dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

INT64 = (-(2**63), 2**63 - 1)
INT32 = (-(2**31), 2**31 - 1)


@dataclass(frozen=True)
class Row:
    """One image. path: absolute, as bytes (names need not be valid Unicode). size: bytes. mtime_ns, ctime_ns:
    nanoseconds; a ctime_ns of 0 is unknown. content_hash: BLAKE2b-128 of the file. width, height: pixels of the upright
    picture. taken_at: local time. note: what is wrong with a picture that can be seen all the same. checksum: of the
    stored embedding and tokens, see `row_checksums`; 0 is unknown."""

    id: int
    path: bytes
    size: int
    mtime_ns: int
    content_hash: bytes
    width: int
    height: int
    taken_at: datetime | None
    ctime_ns: int = 0
    note: str = ""
    checksum: int = 0


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
        pa.field("ctime_ns", pa.int64(), nullable=False),
        pa.field("note", pa.string(), nullable=False),
        pa.field("checksum", pa.int64(), nullable=False),
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
ROW_DEFAULTS = {field.name: field.default for field in fields(Row) if field.default is not MISSING}


def rows_table(rows: Sequence[Row]) -> pa.Table:
    """Numbers beyond what a column holds become the nearest that it does, so that no file can cost its neighbours."""
    return _table(rows, Row, ROW_SCHEMA)


def failures_table(failures: Sequence[Failure]) -> pa.Table:
    """The same of failures."""
    return _table(failures, Failure, FAILURE_SCHEMA)


def _table(items: Sequence[Row] | Sequence[Failure], kind: type, schema: pa.Schema) -> pa.Table:
    columns = zip(*(astuple(item) for item in items), strict=True) if items else [()] * len(fields(kind))
    arrays = [
        pa.array([_held(value, field.type) for value in column], field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.table(arrays, schema)


def _held(value: Any, kind: pa.DataType) -> Any:
    """A value as a column of this type can hold it."""
    if pa.types.is_integer(kind):
        low, high = INT32 if kind == pa.int32() else INT64
        return min(max(value, low), high)
    if pa.types.is_string(kind):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of `schema`, in its order, where a file of an earlier version lacks some; columns that
    a later version added come after them, as they are."""
    columns = {name: column_of(table, name, schema) for name in schema.names}
    columns |= {name: table[name] for name in table.column_names if name not in columns}
    # What other rows do not have becomes null when it is merged with them.
    kinds = [
        schema.field(name) if name in schema.names else table.schema.field(name).with_nullable(True) for name in columns
    ]
    return pa.table(list(columns.values()), pa.schema(kinds))


def column_of(table: pa.Table, name: str, schema: pa.Schema) -> pa.ChunkedArray:
    """A column, with its default where the table has none. Raises `pa.ArrowInvalid` where it is of another type, or has
    no default."""
    if name in table.column_names:
        column = _of_type(table[name], schema.field(name).type)
        if name not in ROW_DEFAULTS or not column.null_count:
            return column
        import pyarrow.compute as pc  # which few queries need

        return pc.fill_null(column, ROW_DEFAULTS[name])
    if name not in ROW_DEFAULTS:
        raise pa.ArrowInvalid(f"it has no column {name}")
    constant = pa.repeat(pa.scalar(ROW_DEFAULTS[name], schema.field(name).type), len(table))
    return pa.chunked_array([constant])


def _of_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Arrow loads all of its functions for a cast, which takes longer than a query: only where there is one to do."""
    return column if column.type == kind else column.cast(kind)
