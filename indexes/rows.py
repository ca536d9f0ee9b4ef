"""What is stored of an image, and of a file that could not be read: values, and the tables that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

INT64 = (-(2**63), 2**63 - 1)
INT32 = (-(2**31), 2**31 - 1)


@dataclass(frozen=True)
class Row:
    """One image. path: absolute, as bytes (names need not be valid Unicode). size: bytes. mtime_ns, ctime_ns:
    nanoseconds; a ctime_ns of 0 is unknown. content_hash: BLAKE2b-128 of the file. width, height: pixels of the upright
    picture. taken_at: local time. note: what is wrong with a picture that can be shown nevertheless. checksum: of the
    stored embedding and regions, see `row_checksums`; 0 is unknown.

    The fields are the columns of `ROW_SCHEMA`. Columns of later versions have defaults, for segments without them."""

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
    """One file that could not be read, and why. ctime_ns shows a change of permissions. pixels: of the picture, where
    too many were the reason; otherwise 0. The fields are the columns of `FAILURE_SCHEMA`."""

    id: int
    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    pixels: int
    error: str


TYPES = {
    "int": pa.int64(),
    "bytes": pa.binary(),
    "str": pa.string(),
    "datetime | None": pa.timestamp("ms"),  # the only column that may be null
}


def _schema(kind: type, **narrower: pa.DataType) -> pa.Schema:
    """The columns of a dataclass. narrower: types of columns that differ from those of `TYPES`."""
    columns = {field.name: str(field.type) for field in fields(kind)}
    return pa.schema(
        [pa.field(name, narrower.get(name, TYPES[kind]), nullable="None" in kind) for name, kind in columns.items()]
    )


ROW_SCHEMA = _schema(Row, width=pa.int32(), height=pa.int32())
FAILURE_SCHEMA = _schema(Failure)
ROW_DEFAULTS = {field.name: field.default for field in fields(Row) if field.default is not MISSING}


def rows_table(rows: Sequence[Row]) -> pa.Table:
    """The table of some images. A number beyond a column's range becomes the nearest one within it, so that one odd
    file costs no other."""
    return _table(rows, ROW_SCHEMA)


def failures_table(failures: Sequence[Failure]) -> pa.Table:
    """The same for failures."""
    return _table(failures, FAILURE_SCHEMA)


def _table(items: Sequence[Row] | Sequence[Failure], schema: pa.Schema) -> pa.Table:
    arrays = [
        pa.array(_held([getattr(item, field.name) for item in items], field.type), field.type) for field in schema
    ]
    return pa.table(arrays, schema)


def _held(values: list[Any], kind: pa.DataType) -> list[Any]:
    """The nearest values that a column of this type can hold."""
    if pa.types.is_integer(kind):
        low, high = INT32 if kind == pa.int32() else INT64
        return [min(max(value, low), high) for value in values]
    if pa.types.is_string(kind):
        return [value.encode("utf-8", "backslashreplace").decode() for value in values]
    return values


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of `schema`, in its order, with defaults for those that an earlier version did not
    write. Columns that a later version added come after them, as they are."""
    columns = {name: column_of(table, name, schema) for name in schema.names}
    columns |= {name: table[name] for name in table.column_names if name not in columns}
    # A merge with rows that lack a column makes its values null there.
    kinds = [
        schema.field(name) if name in schema.names else table.schema.field(name).with_nullable(True) for name in columns
    ]
    return pa.table(list(columns.values()), pa.schema(kinds))


def column_of(table: pa.Table, name: str, schema: pa.Schema) -> pa.ChunkedArray:
    """A column, or its default where the table lacks it. Raises `pa.ArrowInvalid` where it is of another type, or has
    no default."""
    if name in table.column_names:
        column = _of_type(table[name], schema.field(name).type)
        if name not in ROW_DEFAULTS or not column.null_count:
            return column
        import pyarrow.compute as pc  # takes longer to import than a query takes

        return pc.fill_null(column, ROW_DEFAULTS[name])
    if name not in ROW_DEFAULTS:
        raise pa.ArrowInvalid(f"it has no column {name}")
    constant = pa.repeat(pa.scalar(ROW_DEFAULTS[name], schema.field(name).type), len(table))
    return pa.chunked_array([constant])


def _of_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column as another type. Even a cast that changes nothing makes Arrow load all of its functions, which takes
    longer than a query."""
    return column if column.type == kind else column.cast(kind)
