"""The manifest: the one small file that says what a collection consists of."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from indexes.errors import CrosslookError
from indexes.files import replace_durably, sync_folder, write_durably

FORMAT = 1
CURRENT = "CURRENT"
MANIFEST_NAME = re.compile(r"manifest-\d{6,}\.json")


@dataclass(frozen=True)
class Binding:
    """What every vector of a collection was made with. A collection is bound to one fingerprint.

    dim: length of an embedding. token_shape, token_dtype: of the tokens of one image."""

    model: str
    fingerprint: str
    dim: int
    token_shape: tuple[int, int]
    token_dtype: str


@dataclass(frozen=True)
class SegmentEntry:
    """A segment as the manifest knows it: its number, and how many rows and failures it must hold."""

    number: int
    rows: int
    failures: int


@dataclass(frozen=True)
class AnnEntry:
    """An ANN index as the manifest knows it: the number of its file, and how many bytes that has.

    It covers the rows whose ids are at most `last_id`; `rows`: how many it holds, some of which may be dead by now.
    probes: lists that are searched. shortlist: how many rows are then scored exactly. recall: share of the exact first
    ten that it found for texts, 0 to 1, of which `recall_target` was asked for; milliseconds: the median time of one
    text; both when it held `measured_rows`."""

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

    @property
    def file_name(self) -> str:
        return f"{self.number:06d}.faiss"


@dataclass(frozen=True)
class Manifest:
    """One commit. `tombstones`: sorted ids of rows and failures that no longer count. `folders`: what was indexed.
    `ann`: the ANN index in force, if any; `next_ann`: number of the next. `committed`: when, seconds since 1970."""

    binding: Binding
    generation: int = 0
    committed: float = 0.0
    next_segment: int = 1
    next_id: int = 1
    folders: tuple[str, ...] = ()
    segments: tuple[SegmentEntry, ...] = ()
    ann: AnnEntry | None = None
    next_ann: int = 1
    tombstones: tuple[int, ...] = field(default=(), repr=False)

    @property
    def file_name(self) -> str:
        return f"manifest-{self.generation:06d}.json"

    def next(self, **changes: Any) -> Manifest:
        return replace(self, generation=self.generation + 1, committed=time.time(), **changes)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest and put it in force."""
    fields = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(manifest)}
    fields |= {"binding": asdict(manifest.binding), "segments": [asdict(entry) for entry in manifest.segments]}
    fields |= {"ann": None if manifest.ann is None else asdict(manifest.ann)}
    content = json.dumps({"format": FORMAT, **fields}).encode()
    write_durably(folder / manifest.file_name, lambda file: file.write(content))
    sync_folder(folder)
    replace_durably(folder / CURRENT, manifest.file_name.encode() + b"\n")


def current_manifest(folder: Path) -> str | None:
    """File name of the manifest in force; None where there is no collection."""
    try:
        return (folder / CURRENT).read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CrosslookError(f"cannot read the collection {folder}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise damaged(folder / CURRENT, "it is not text") from error


def orphaned_manifest(folder: Path) -> str | None:
    """Where CURRENT is lost, the newest manifest, which was whole on disk before CURRENT could name it."""
    if not folder.is_dir() or (folder / CURRENT).exists():
        return None
    names = [path.name for path in folder.iterdir() if MANIFEST_NAME.fullmatch(path.name)]
    return max(names, key=lambda name: (len(name), name), default=None)


def current_binding(folder: Path) -> Binding | None:
    """What the collection is bound to, from its manifest alone; None where there is no collection."""
    while (name := current_manifest(folder) or orphaned_manifest(folder)) is not None:
        try:
            return read_manifest(folder, name).binding
        except FileNotFoundError as error:
            if current_manifest(folder) in (name, None):
                raise damaged(folder / CURRENT, f"it names {name}, which is missing") from error
    return None


def read_manifest(folder: Path, name: str) -> Manifest:
    """Read one manifest. Raises `CrosslookError` when it is damaged or of another format, `FileNotFoundError` when it
    is gone."""
    path = folder / name
    if not MANIFEST_NAME.fullmatch(name):
        raise damaged(folder / CURRENT, f"it names {name[:40]!r}")
    try:
        content: Any = json.loads(path.read_bytes())
        version = content.pop("format")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CrosslookError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise damaged(path, "it is not a manifest") from error
    if version != FORMAT:
        raise CrosslookError(
            f"{path} has format {version!r}, this version reads format {FORMAT}: upgrade crosslook, "
            "or index into another --index"
        )
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"its fields are wrong ({error})") from error


def _parse(content: dict[str, Any]) -> Manifest:
    binding = dict(content.pop("binding"))
    binding["token_shape"] = tuple(int(side) for side in binding["token_shape"])
    return Manifest(
        binding=Binding(**binding),
        folders=tuple(content.pop("folders")),
        segments=tuple(SegmentEntry(**entry) for entry in content.pop("segments")),
        tombstones=tuple(int(row) for row in content.pop("tombstones")),
        ann=None if (ann := content.pop("ann", None)) is None else AnnEntry(**ann),
        **content,
    )


def damaged(path: Path, reason: str) -> CrosslookError:
    """A file that says what the collection is does not say it."""
    return CrosslookError(
        f"{path} is damaged: {reason}; restore it from a backup, or delete {path.parent} and index again"
    )
