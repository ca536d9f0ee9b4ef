"""Write a segment: all of its files, or nothing.

They are written into a folder with a draft's name of its own, which is renamed when all is on disk: no crash leaves
half a segment under a segment's name, and no two processes write the same files. Each part is written in its format 1.
The footers of the tables say what the segment belongs to and consists of, so that a lost manifest can be rebuilt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from indexes.deletions import Deletions, write_deletions
from indexes.errors import CrosslookError
from indexes.files import sync_folder, write_durably
from indexes.manifest import DEAD, EMBEDDINGS, FAILURES, FILES, REGIONS, ROWS, Manifest, PartEntry, SegmentEntry
from indexes.manifest_file import FORMAT, plain
from indexes.numbering import RowId, RowIds, SegmentNumber
from indexes.paths import new_draft_folder, segment_folder

ROW_GROUP = 1024  # rows
FOOTER = b"crosslook"  # key of what a table's footer says


@dataclass(frozen=True)
class Batch:
    """What becomes a segment. rows, failures: tables, with ascending ids. embeddings, regions: of the rows, [n, dim]
    and [n, regions, region_dim], in blocks of any number of rows, so that a merge never holds all of them. deletions:
    entries that are dead from the start, which a merge keeps since they can be revived."""

    rows: pa.Table
    failures: pa.Table
    embeddings: Iterable[NDArray[Any]]
    regions: Iterable[NDArray[Any]]
    deletions: Deletions | None = None


@dataclass(frozen=True)
class Reservation:
    """The right to write one segment, once, given by the collection's writer. It can be pickled and sent to another
    process.

    number: of the segment. first_id, count: the segment's rows and failures have ids from `first_id` on, fewer than
    `count` of them or as many. manifest: the commit that was in force."""

    number: SegmentNumber
    first_id: RowId
    count: int
    manifest: Manifest

    @property
    def ids(self) -> range:
        """That the segment's rows and failures may have."""
        return range(self.first_id, self.first_id + self.count)


def write_segment(folder: Path, batch: Batch, reservation: Reservation) -> SegmentEntry:
    """Write a segment into the collection at `folder`, complete and on disk when this returns. No reader sees it before
    the writer adopts the entry.

    A reservation is written once: to try again, reserve anew. What is never adopted is removed by the next writer,
    unless that rebuilds a lost manifest, which takes over all segments that are complete.

    Raises `ValueError` before anything is written if the ids of the batch are not those reserved, or do not ascend;
    `CrosslookError` if the segment is written already, or its writer has ended meanwhile; `OSError` when it cannot
    be written, and whatever the blocks of the batch raise. Then nothing is left of this call."""
    fault = ids_fault(batch.rows["id"].to_numpy(), batch.failures["id"].to_numpy(), reservation.ids)
    if fault is not None:
        raise ValueError(f"the batch for segment {reservation.number} does not fit: {fault}")
    if segment_folder(folder, reservation.number).exists():
        raise _written_already(reservation)

    def rename(draft: Path, path: Path) -> None:
        try:
            draft.rename(path)
        except OSError as error:
            if path.exists():
                raise _written_already(reservation) from error
            raise

    return _write_and_rename(folder, batch, reservation, rename)


def write_own_segment(folder: Path, batch: Batch, reservation: Reservation) -> SegmentEntry:
    """The same by the writer itself, which holds the collection's lock. The batch may have any ids. A segment of this
    number that is written already comes of a process that has outlived its writer: no manifest names it, and it is
    removed."""

    def rename(draft: Path, path: Path) -> None:
        while True:
            try:
                draft.rename(path)
                return
            except OSError:
                if not path.exists():
                    raise
            stale = new_draft_folder(folder, reservation.number)
            path.rename(stale)
            shutil.rmtree(stale, ignore_errors=True)

    return _write_and_rename(folder, batch, reservation, rename)


def _write_and_rename(
    folder: Path, batch: Batch, reservation: Reservation, rename: Callable[[Path, Path], None]
) -> SegmentEntry:
    """Write a draft, and make it the segment once all of it is on disk. rename: gives a draft the segment's name."""
    path = segment_folder(folder, reservation.number)
    with _draft_of(folder, reservation) as draft:
        entry = _write_files(draft, batch, reservation)
        sync_folder(draft)
        rename(draft, path)
    sync_folder(path.parent)
    return entry


def ids_fault(rows: RowIds, failures: RowIds, reserved: range) -> str | None:
    """What is wrong with the ids of a segment for a reservation; None where they are as they should be: strictly
    ascending, each given once, and reserved. There must be some."""
    ids = np.concatenate([rows, failures])
    if not len(ids):
        return "it is empty"
    if int(ids.min()) not in reserved or int(ids.max()) not in reserved:
        return f"it has the ids {ids.min()} to {ids.max()}, reserved were {reserved.start} to {reserved.stop - 1}"
    if (np.diff(rows) <= 0).any() or (np.diff(failures) <= 0).any():
        return "its ids do not ascend"
    return "a row and a failure have the same id" if np.isin(rows, failures).any() else None


def _written_already(reservation: Reservation) -> CrosslookError:
    return CrosslookError(
        f"segment {reservation.number} is written already, by an earlier try or by another process: reserve anew"
    )


@contextmanager
def _draft_of(folder: Path, reservation: Reservation) -> Iterator[Path]:
    """A folder to write the segment into, which is removed where that fails. Another writer may remove it too: it does
    not know of a reservation that an earlier one gave."""
    draft = new_draft_folder(folder, reservation.number)
    draft.mkdir()
    try:
        yield draft
    except BaseException as error:
        if isinstance(error, FileNotFoundError) and not draft.exists():
            raise CrosslookError(
                f"segment {reservation.number} was given up before it was written: reserve anew"
            ) from error
        shutil.rmtree(draft, ignore_errors=True)  # on a full disk, half a segment would keep it full
        raise


def _write_files(folder: Path, batch: Batch, reservation: Reservation) -> SegmentEntry:
    manifest = reservation.manifest
    entry = SegmentEntry(reservation.number, len(batch.rows), len(batch.failures), parts={})
    count, binding = entry.rows, manifest.binding

    def write(name: str, content: Any) -> None:
        nonlocal entry
        size, checksum = write_durably(folder / FILES[name], content)
        entry = replace(entry, parts={**entry.parts, name: PartEntry(FILES[name], bytes=size, checksum=checksum)})

    write(EMBEDDINGS, lambda file: _save(file, (count, binding.dim), "float16", batch.embeddings))
    write(REGIONS, lambda file: _save(file, (count, *binding.region_shape), binding.region_dtype, batch.regions))
    write(FAILURES, lambda file: _save_table(file, batch.failures, _footer(entry, manifest)))
    if batch.deletions is not None and len(batch.deletions):
        part = write_deletions(folder, batch.deletions, manifest.generation + 1)
        entry = with_deletions(entry, batch.deletions, part)
    # Last, since its footer lists all other parts.
    write(ROWS, lambda file: _save_table(file, batch.rows, _footer(entry, manifest)))
    return entry


def with_deletions(entry: SegmentEntry, deletions: Deletions, part: PartEntry) -> SegmentEntry:
    """The entry of a segment whose deletion vector is `part`."""
    return replace(entry, dead=len(deletions), removed=int(deletions.removed.sum()), parts={**entry.parts, DEAD: part})


def _footer(entry: SegmentEntry, manifest: Manifest) -> Mapping[str, Any]:
    """What a segment belongs to and consists of, and what a rebuilt manifest needs of the commit before it."""
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
