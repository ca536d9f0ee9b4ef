"""The manifest: the one small value that says what a collection consists of. `manifest_file` reads and writes it.

The names of fields are the keys on disk, unless a field's metadata names another `key`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from indexes.numbering import RowId, SegmentNumber

Extra = Mapping[str, Any]  # keys of a later version that this one does not know, kept as they are


@dataclass(frozen=True)
class Binding:
    """What every vector of a collection was made with. A collection is bound to one fingerprint.

    dim: length of an embedding. region_shape, region_dtype: of the regions of one image, (regions, region_dim)."""

    model: str
    fingerprint: str
    dim: int
    region_shape: tuple[int, int] = field(metadata={"key": "token_shape"})
    region_dtype: str = field(metadata={"key": "token_dtype"})
    extra: Extra = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class PartEntry:
    """One file of a segment. format: the number of this part's own format; each kind of part counts its own. bytes,
    checksum: of the file, as they must be; None if an earlier version wrote it, which kept neither."""

    file: str
    format: int = 1
    bytes: int | None = None
    checksum: str | None = None
    extra: Extra = field(default_factory=dict, compare=False, repr=False)


ROWS, FAILURES, EMBEDDINGS, REGIONS, DEAD = "rows", "failures", "embeddings", "tokens", "dead"
FILES = {
    EMBEDDINGS: "embeddings.npy",
    REGIONS: "tokens.npy",
    FAILURES: "failures.parquet",
    ROWS: "rows.parquet",
}


def _plain_parts() -> Mapping[str, PartEntry]:
    return {name: PartEntry(file) for name, file in FILES.items()}


@dataclass(frozen=True)
class SegmentEntry:
    """A segment as the manifest knows it. rows, failures: how many its files hold. parts: its files by kind.

    dead: how many rows and failures no longer count. removed: how many of these are rows of files that have gone, which
    can be revived by their content until `optimize` drops them. The part `dead` says which ones they are."""

    number: SegmentNumber
    rows: int
    failures: int
    dead: int = 0
    removed: int = 0
    parts: Mapping[str, PartEntry] = field(default_factory=_plain_parts)
    extra: Extra = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class AnnEntry:
    """An ANN index as the manifest knows it: the number of its file, and the file's size in bytes.

    It covers the rows whose ids are at most `last_id`. rows: how many it holds, some of which may be dead by now.
    nprobe: how many inverted lists a query scans. shortlist: how many rows are then scored exactly. recall: share of
    the exact first ten that it returns for texts, 0 to 1; `recall_target` is the share that was asked for.
    milliseconds: the median time of one text. Both were measured when it held `measured_rows`. kind: which
    implementation reads the file, see `indexes.ann.kinds`. format: the number of that kind's own format. checksum: of
    the file; None if an earlier version wrote it, which kept none."""

    number: int = 0
    bytes: int = 0
    last_id: RowId = 0
    rows: int = 0
    nprobe: int = field(default=1, metadata={"key": "probes"})
    shortlist: int = 100
    recall_target: float = 0.0
    recall: float = 0.0
    milliseconds: float = 0.0
    measured_rows: int = 0
    kind: str = "faiss"
    format: int = 1
    checksum: str | None = None
    extra: Extra = field(default_factory=dict, compare=False, repr=False)

    @property
    def file_name(self) -> str:
        """Of the index, in the folder of ANN indexes."""
        return f"{self.number:06d}.faiss"


@dataclass(frozen=True)
class Features:
    """Names of what later versions added to the format. A version that does not know all `required` features cannot
    read the collection. One that does not know all `required_to_write` can read it and must not write to it. `optional`
    features hinder nobody."""

    required: tuple[str, ...] = ()
    required_to_write: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    extra: Extra = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Manifest:
    """One commit. committed: seconds since 1970. folders: that were indexed. excludes: patterns of files that are left
    out. mounts: folders that were mount points when they were last listed. devices: for each folder its drives, each
    with the id from which on it was there, ascending. passed_over: how many pictures of other formats lie in each
    folder, by ending. ann: the ANN index in force, if any. next_ann: the number of the next one. features: what a later
    version added. tombstones: sorted ids that no longer count, of a collection of format 1; the next commit turns them
    into deletion vectors."""

    binding: Binding
    generation: int = 0
    committed: float = 0.0
    next_segment: SegmentNumber = 1
    next_id: RowId = 1
    folders: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    devices: Mapping[str, tuple[tuple[int, str], ...]] = field(default_factory=dict)
    passed_over: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    segments: tuple[SegmentEntry, ...] = ()
    ann: AnnEntry | None = None
    next_ann: int = 1
    features: Features = field(default_factory=Features)
    tombstones: tuple[int, ...] = field(default=(), repr=False)
    extra: Extra = field(default_factory=dict, compare=False, repr=False)

    @property
    def file_name(self) -> str:
        """Of the manifest, in the collection's folder."""
        return f"manifest-{self.generation:06d}.json"

    def next(self, **changes: Any) -> Manifest:
        """The manifest of the next commit. changes: fields that differ."""
        return replace(self, generation=self.generation + 1, committed=time.time(), **changes)
