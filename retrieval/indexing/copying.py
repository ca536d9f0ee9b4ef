"""Encoding: reuse stored vectors for known content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexes.checksums import row_checksums
from indexes.collection import Collection
from indexes.errors import DamagedSegmentError
from indexes.rows import Row
from retrieval.indexing.encoding import EncodedFiles
from retrieval.indexing.files import File
from retrieval.indexing.plan import Encoding


@dataclass(frozen=True)
class Copies:
    """is_sound: for every file, whether its row could be copied. copied: the rows of those files, with their embeddings
    and regions. revived: ids of the originals that were dead. damage: set if a row is damaged."""

    is_sound: tuple[bool, ...]
    copied: EncodedFiles | None = None
    revived: tuple[int, ...] = ()
    damage: DamagedSegmentError | None = None


def copy_rows(collection: Collection, positions: Sequence[int], files: Sequence[File | Row]) -> Copies:
    """Copies known rows for other files of the same content. positions: of the rows, one per file. A row is left out as
    damaged if its stored checksum is not that of its embedding and regions."""
    if not positions:
        return Copies(())
    rows, array = collection.rows(positions), np.asarray(positions, np.int64)
    embeddings, regions = collection.embeddings(array), collection.regions(array)
    stored = np.array([row.checksum for row in rows], np.int64)
    is_sound = (stored == 0) | (stored == np.array(row_checksums(embeddings, regions), np.int64))
    damage = None
    if not is_sound.all():
        first = array[~is_sound][0]
        segment = collection.segments[int(np.searchsorted(collection.starts, first, side="right")) - 1]
        damage = DamagedSegmentError(segment.folder, "embeddings or tokens", "a row's checksum is wrong")
    pairs = zip(rows, files, is_sound.tolist(), strict=True)
    copied = EncodedFiles(
        tuple(_row_for(file, row) for row, file, sound in pairs if sound),
        np.asarray(embeddings[is_sound], np.float16),
        np.asarray(regions[is_sound], collection.manifest.binding.region_dtype),
    )
    ids = np.array([row.id for row in rows], np.int64)
    revived = ids[is_sound & (collection.positions(ids) < 0)].tolist()
    return Copies(tuple(is_sound.tolist()), copied, tuple(revived), damage)


def positions_by_content(collection: Collection, encodings: Sequence[Encoding]) -> Mapping[bytes, int]:
    """Content hash -> position of a row with that content. Only rows of the size of a file with `may_be_known` are
    looked at. A row that counts is preferred to a dead one."""
    sizes = np.unique(np.array([item.file.size for item in encodings if item.may_be_known], np.int64))
    positions: dict[bytes, int] = {}
    if len(sizes):
        columns = ["size", "content_hash"]
        for table in (collection.table(columns), collection.dead(columns)):
            has_size = np.isin(table["size"].to_numpy(), sizes)
            hashes = table["content_hash"].filter(has_size).to_pylist()
            for content, position in zip(hashes, table["position"].to_numpy()[has_size].tolist(), strict=True):
                positions.setdefault(content, position)
    return positions


def _row_for(file: File | Row, known: Row) -> Row:
    """The row of another file with the content of a known row."""
    return replace(known, path=file.path, size=file.size, mtime_ns=file.mtime_ns, ctime_ns=file.ctime_ns)
