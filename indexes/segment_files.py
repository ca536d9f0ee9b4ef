"""Write a segment: all of its files, or nothing.

They are written into a folder with a draft's name, which is renamed when all is on disk: no crash leaves half of one
under a segment's name. The footers of its tables say what it belongs to and what it consists of, so that a lost
manifest can be rebuilt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from indexes.deletions import Deletions, write_deletions
from indexes.files import DRAFT, sync_folder, write_durably
from indexes.manifest import DEAD, EMBEDDINGS, FAILURES, FILES, ROWS, TOKENS, Manifest, PartEntry, SegmentEntry
from indexes.manifest_file import FORMAT, plain

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


def write_segment(folder: Path, batch: Batch, manifest: Manifest) -> SegmentEntry:
    """Write a segment as `folder`, whole and on disk when this returns, numbered as the next of `manifest`, the commit
    before.

    Raises `OSError` when it cannot be written, and whatever the blocks of the batch raise; nothing is left then."""
    draft = folder.with_name(folder.name + DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        entry = _write_files(draft, batch, manifest)
        sync_folder(draft)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # on a full disk, half a segment would keep it full
        raise
    sync_folder(folder.parent)
    return entry


def _write_files(folder: Path, batch: Batch, manifest: Manifest) -> SegmentEntry:
    entry = SegmentEntry(manifest.next_segment, len(batch.rows), len(batch.failures), parts={})
    count, binding = entry.rows, manifest.binding

    def write(name: str, content: Any) -> None:
        nonlocal entry
        size, checksum = write_durably(folder / FILES[name], content)
        entry = replace(entry, parts={**entry.parts, name: PartEntry(FILES[name], bytes=size, checksum=checksum)})

    write(EMBEDDINGS, lambda file: _save(file, (count, binding.dim), "float16", batch.embeddings))
    write(TOKENS, lambda file: _save(file, (count, *binding.token_shape), binding.token_dtype, batch.tokens))
    write(FAILURES, lambda file: _save_table(file, batch.failures, _footer(entry, manifest)))
    if batch.deletions is not None and len(batch.deletions):
        part = write_deletions(folder, batch.deletions, manifest.generation + 1)
        entry = with_deletions(entry, batch.deletions, part)
    # Last, since it says what all the others are.
    write(ROWS, lambda file: _save_table(file, batch.rows, _footer(entry, manifest)))
    return entry


def with_deletions(entry: SegmentEntry, deletions: Deletions, part: PartEntry) -> SegmentEntry:
    """The entry of a segment whose deletion vector is `part`."""
    return replace(entry, dead=len(deletions), removed=int(deletions.removed.sum()), parts={**entry.parts, DEAD: part})


def _footer(entry: SegmentEntry, manifest: Manifest) -> Mapping[str, Any]:
    """What a segment belongs to and consists of, and what of the commit before it a rebuilt manifest needs."""
    return {
        "format": FORMAT,
        "required": list(manifest.features.required),
        "required_to_write": list(manifest.features.required_to_write),
        "generation": manifest.generation + 1,
        "next_id": manifest.next_id,
        "folders": list(manifest.folders),
        "excludes": list(manifest.excludes),
        "binding": plain(manifest.binding),
        **{name: plain(getattr(entry, name)) for name in ("number", "rows", "failures", "parts")},
    }


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
