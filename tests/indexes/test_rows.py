"""The tables of images and failures: their columns are fixed by the format on disk."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from indexes.rows import FAILURE_SCHEMA, ROW_SCHEMA, Failure, Row, failures_table, rows_table


def test_the_columns_are_those_of_the_format() -> None:
    int64, binary = pa.int64(), pa.binary()
    rows: dict[str, pa.DataType] = {"id": int64, "path": binary, "size": int64, "mtime_ns": int64}
    rows |= {"content_hash": binary, "width": pa.int32(), "height": pa.int32(), "taken_at": pa.timestamp("ms")}
    rows |= {"ctime_ns": int64, "note": pa.string(), "checksum": int64}
    failures: dict[str, pa.DataType] = {"id": int64, "path": binary, "size": int64, "mtime_ns": int64}
    failures |= {"ctime_ns": int64, "pixels": int64, "error": pa.string()}
    for schema, columns in ((ROW_SCHEMA, rows), (FAILURE_SCHEMA, failures)):
        fields = [pa.field(name, kind, nullable=name == "taken_at") for name, kind in columns.items()]
        assert schema.equals(pa.schema(fields), check_metadata=True)


def test_what_a_column_cannot_hold_becomes_the_nearest_that_it_can() -> None:
    row = Row(1, b"/a", 2**70, -(2**80), bytes(16), 2**40, -(2**40), datetime(2020, 1, 2), note="\ud800")
    (values,) = rows_table([row]).to_pylist()
    assert (values["size"], values["mtime_ns"]) == (2**63 - 1, -(2**63))
    assert (values["width"], values["height"], values["note"]) == (2**31 - 1, -(2**31), "\\ud800")
    (values,) = failures_table([Failure(1, b"/a", 1, 2, 3, 2**70, "e")]).to_pylist()
    assert values["pixels"] == 2**63 - 1
