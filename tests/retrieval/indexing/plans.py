"""Made-up files, rows and failures, and the plan for them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from indexes.rows import Failure, failures_table
from retrieval.indexing.files import File
from retrieval.indexing.known import Known
from retrieval.indexing.listing import Listing
from retrieval.indexing.plan import Plan
from retrieval.indexing.planning import make_plan

ROOT = b"/photos"
ROW_TYPES = pa.schema(
    {
        "position": pa.int64(),
        "id": pa.int64(),
        "path": pa.binary(),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "ctime_ns": pa.int64(),
        "content_hash": pa.binary(),
    }
)


def file(name, size=10, mtime=1, ctime=1):
    return File(ROOT + b"/" + name, size, mtime, ctime)


def row(id, name, size=10, mtime=1, content=b"h", ctime=1):
    return {
        "id": id,
        "path": ROOT + b"/" + name,
        "size": size,
        "mtime_ns": mtime,
        "ctime_ns": ctime,
        "content_hash": content,
    }


def failure(id, name, size=10, mtime=1, ctime=1, pixels=0):
    return Failure(id, ROOT + b"/" + name, size, mtime, ctime, pixels, "is damaged")


def table(rows):
    columns = {name: [item[name] for item in rows] for name in ROW_TYPES.names if name != "position"}
    return pa.table({"position": list(range(len(rows))), **columns}, ROW_TYPES)


def plan(
    files: Sequence[File] = (),
    rows: Sequence[dict[str, Any]] = (),
    failures: Sequence[Failure] = (),
    contents: Mapping[bytes, bytes | None] | None = None,
    *,
    roots: Sequence[bytes] = (ROOT,),
    existing: Container[bytes] = (),
    removed: Sequence[int] = (),
    indexed: tuple[bytes, ...] = (),
    mounts_before: tuple[bytes, ...] = (),
    listed: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Plan:
    """Makes a plan. contents: hashes of the files that may be read. existing: paths outside the listing. listed: other
    fields of the listing."""
    readable = contents or {}

    def content_hash(path: bytes) -> bytes | None:
        assert path in readable, f"{path!r} was read without need"
        return readable[path]

    fields = {"unlisted": ()} | dict(listed or {})
    listing = Listing(tuple(sorted(files, key=lambda file: file.path)), **fields)
    known = Known(table(rows), failures_table(list(failures)), np.array(removed, np.int64), indexed, mounts_before)
    return make_plan(listing, roots, known, content_hash, lambda path: path not in existing, **settings)


def visited(*names, **more):
    return {"visited": frozenset({ROOT, *(ROOT + b"/" + name for name in names)})} | more
