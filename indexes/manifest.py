"""The manifest: the one small value that says what a collection consists of. `manifest_file` reads and writes it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Extra = Mapping[str, Any]  # keys that a later version wrote and this one does not know, kept as they are


@dataclass(frozen=True)
class Binding:
    """What every vector of a collection was made with. A collection is bound to one fingerprint.

    dim: length of an embedding. token_shape, token_dtype: of the tokens of one image."""

    model: str
    fingerprint: str
    dim: int
    token_shape: tuple[int, int]
    token_dtype: str
    extra: Extra = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class PartEntry:
    """One file of a segment. format: the number of the file's own format. bytes, checksum: what the file must have;
    None where a version wrote it that kept neither."""

    file: str
    format: int = 1
    bytes: int | None = None
    checksum: str | None = None
    extra: Extra = field(default_factory=dict, compare=False, repr=False)


ROWS, FAILURES, EMBEDDINGS, TOKENS, DEAD = "rows", "failures", "embeddings", "tokens", "dead"
FILES = {
    EMBEDDINGS: "embeddings.npy",
    TOKENS: "tokens.npy",
    FAILURES: "failures.parquet",
    ROWS: "rows.parquet",
}


def _plain_parts() -> Mapping[str, PartEntry]:
    return {name: PartEntry(file) for name, file in FILES.items()}


@dataclass(frozen=True)
class SegmentEntry:
    """A segment as the manifest knows it: its number, how many rows and failures its files hold, and its files.

    dead: how many rows and failures no longer count; removed: how many of these are rows of files that have gone, which
    can be revived by their content until `optimize` drops them. Which ones they are is in the part `dead`."""

    number: int
    rows: int
    failures: int
    dead: int = 0
    removed: int = 0
    parts: Mapping[str, PartEntry] = field(default_factory=_plain_parts)
    extra: Extra = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class AnnEntry:
    """An ANN index as the manifest knows it: the number of its file, and how many bytes that has.

    It covers the rows whose ids are at most `last_id`; `rows`: how many it holds, some of which may be dead by now.
    probes: lists that are searched. shortlist: how many rows are then scored exactly. recall: share of the exact first
    ten that it found for texts, 0 to 1, of which `recall_target` was asked for; milliseconds: the median time of one
    text; both when it held `measured_rows`. kind, format: what reads the file. checksum: of the file, None where a
    version wrote it that kept none."""

    number: int = 0
    bytes: int = 0
    last_id: int = 0
    rows: int = 0
    probes: int = 1
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
        return f"{self.number:06d}.faiss"


@dataclass(frozen=True)
class Features:
    """Names of what later versions added to the format. required: one that does not know these cannot read the
    collection. required_to_write: it can, and must not write to it. optional: it can do both."""

    required: tuple[str, ...] = ()
    required_to_write: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    extra: Extra = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Manifest:
    """One commit. committed: when, seconds since 1970. folders: what was indexed. excludes: patterns of files that are
    left out. mounts: folders that were mount points when they were last listed. devices: of folders, which drive was
    there from which id on, ascending. passed_over: how many pictures of other formats lay in each folder, by ending.
    ann: the ANN index in force, if any; next_ann: number of the next. features: what a later version added, and who
    must know it. tombstones: sorted ids that no longer count, of a collection of format 1; the next commit turns them
    into deletion vectors."""

    binding: Binding
    generation: int = 0
    committed: float = 0.0
    next_segment: int = 1
    next_id: int = 1
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
        return f"manifest-{self.generation:06d}.json"

    def next(self, **changes: Any) -> Manifest:
        return replace(self, generation=self.generation + 1, committed=time.time(), **changes)
