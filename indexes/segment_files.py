"""Write a segment: all of its files, or nothing.

They are written into a folder with a draft's name, which is renamed when all is on disk: a segment's folder without
that ending is whole. The footers of its tables say what it belongs to and what it consists of, so that a lost manifest
can be rebuilt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from indexes.deletions import Deletions, write_deletions
from indexes.files import DRAFT, sync_folder, write_durably
from indexes.manifest import DEAD, EMBEDDINGS, FAILURES, FILES, ROWS, TOKENS, Binding, PartEntry, SegmentEntry

ROW_GROUP = 1024
FOOTER = b"crosslook"  # key of what a table's footer says


@dataclass(frozen=True)
class Batch:
    """What becomes a segment: rows and failures, and the rows' embeddings [n, dim] and tokens [n, regions, token_dim],
    each in blocks of any number of rows, so that a merge never holds them all. deletions: of entries that are dead from
    the beginning, which a merge keeps since they can be revived."""

    rows: pa.Table
    failures: pa.Table
    embeddings: Iterable[NDArray[Any]]
    tokens: Iterable[NDArray[Any]]
    deletions: Deletions | None = None


def write_segment(folder: Path, number: int, batch: Batch, binding: Binding, generation: int) -> SegmentEntry:
    """Write a segment as `folder`, whole and on disk when this returns. generation: of the commit that will name it.

    Raises `OSError` when it cannot be written, and whatever the blocks of the batch raise; nothing is left then."""
    draft = folder.with_name(folder.name + DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        entry = _write_files(draft, number, batch, binding, generation)
        sync_folder(draft)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # on a full disk, half a segment would keep it full
        raise
    sync_folder(folder.parent)
    return entry


def _write_files(folder: Path, number: int, batch: Batch, binding: Binding, generation: int) -> SegmentEntry:
    entry = SegmentEntry(number, len(batch.rows), len(batch.failures), parts={})
    count = entry.rows

    def write(name: str, content: Any) -> None:
        nonlocal entry
        size, checksum = write_durably(folder / FILES[name], content)
        entry = replace(entry, parts={**entry.parts, name: PartEntry(FILES[name], bytes=size, checksum=checksum)})

    write(EMBEDDINGS, lambda file: _save(file, (count, binding.dim), "float16", batch.embeddings))
    write(TOKENS, lambda file: _save(file, (count, *binding.token_shape), binding.token_dtype, batch.tokens))
    write(FAILURES, lambda file: _save_table(file, batch.failures, _footer(entry, binding, generation)))
    if batch.deletions is not None and len(batch.deletions):
        part = write_deletions(folder, batch.deletions, generation)
        entry = with_deletions(entry, batch.deletions, part)
    # Last, since it says what all the others are.
    write(ROWS, lambda file: _save_table(file, batch.rows, _footer(entry, binding, generation)))
    return entry


def with_deletions(entry: SegmentEntry, deletions: Deletions, part: PartEntry) -> SegmentEntry:
    """The entry of a segment whose deletion vector is `part`."""
    return replace(entry, dead=len(deletions), removed=int(deletions.removed.sum()), parts={**entry.parts, DEAD: part})


def _footer(entry: SegmentEntry, binding: Binding, generation: int) -> Mapping[str, Any]:
    parts = {name: _known(part) for name, part in entry.parts.items()}
    counts = {name: getattr(entry, name) for name in ("number", "rows", "failures")}
    return {"generation": generation, "binding": _known(binding), **counts, "parts": parts}


def _known(entry: Binding | PartEntry) -> dict[str, Any]:
    values = asdict(entry)
    return values | dict(values.pop("extra"))


def _save_table(file: IO[bytes], table: pa.Table, footer: Mapping[str, Any]) -> None:
    named = table.replace_schema_metadata({FOOTER: json.dumps(footer).encode()})
    pq.write_table(named, file, row_group_size=ROW_GROUP, write_page_checksum=True)


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
