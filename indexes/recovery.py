"""Rebuild a lost manifest from the segments, and decide what of a damaged segment can be kept. Only copies in
`set-aside` are written here."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from indexes.collection import Collection
from indexes.commits import find_commit, manifest_names
from indexes.deletions import parse_deletions
from indexes.errors import CrosslookError, DamagedCollectionError, DamagedSegmentError, unreadable
from indexes.folders import are_in_folder
from indexes.manifest import DEAD, FAILURES, FILES, ROWS, Binding, Manifest, PartEntry, SegmentEntry
from indexes.manifest_file import FORMAT, entry_of, refuse_unknown, salvaged
from indexes.numbering import RowId, SegmentNumber
from indexes.paths import ann_folder, segment_folder, segments_folder
from indexes.segment import Segment, read_counts, read_footer
from indexes.segment_files import with_deletions
from indexes.verification import check_parts, segment_faults, summed_part

SET_ASIDE = "set-aside"
SEGMENT_NAME = re.compile(r"\d{6,}")
DEAD_NAME = re.compile(r"dead-(\d{6,})\.npy")


@dataclass(frozen=True)
class Rebuilt:
    """manifest: not written yet. useless: folders of segments that are not part of it, with reasons. notes: what could
    not be recovered. lost_deletions: segments whose newest deletion vector is damaged."""

    manifest: Manifest
    useless: tuple[tuple[Path, str], ...]
    notes: tuple[str, ...]
    lost_deletions: frozenset[SegmentNumber]


@dataclass(frozen=True)
class RecoveredSegment:
    """A segment without damage. first_id, last_id: of all entries, dead ones included. footer: empty for format 1.
    has_lost: whether a deletion vector is damaged."""

    entry: SegmentEntry
    footer: Mapping[str, Any]
    first_id: RowId
    last_id: RowId
    has_lost: bool


def segment_numbers(folder: Path) -> list[SegmentNumber]:
    """The numbers of the segments that are on disk, ascending."""
    parent = segments_folder(folder)
    names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    return sorted(int(name) for name in names if SEGMENT_NAME.fullmatch(name))


def current_binding(folder: Path) -> Binding | None:
    """What the collection is bound to: by its manifest or, where that is lost, by its newest segment that says it, or
    by the rest of a damaged manifest. None if there is no collection."""
    try:
        commit = find_commit(folder)
    except DamagedCollectionError:
        commit = None
    if commit is not None:
        return commit.manifest.binding
    for number in reversed(segment_numbers(folder)):
        try:
            footer = read_footer(segment_folder(folder, number))
            if footer:
                return entry_of(Binding, footer["binding"])
        except (DamagedSegmentError, FileNotFoundError, KeyError, TypeError, ValueError):
            continue
    return _salvaged(folder).get("binding")


def rebuild(folder: Path) -> Rebuilt | None:
    """The manifest of the segments on disk; None if nothing says which model they belong to.

    Of segments with the same ids the newest counts: a merge was not finished. Segments of format 1 do not name their
    model; a collection is bound to one, so it is that of the others. Raises `CrosslookError` if a file cannot be
    read now, or needs a later version."""
    binding = current_binding(folder)
    if binding is None:
        return None
    newest = max((_generation(name) for name in manifest_names(folder)), default=None)
    segments: list[RecoveredSegment] = []
    useless: list[tuple[Path, str]] = []
    for number in reversed(segment_numbers(folder)):
        path = segment_folder(folder, number)
        try:
            segment = _recovered(path, number, binding, newest)
        except FileNotFoundError as error:
            useless.append((path, f"{Path(str(error.filename)).name} is missing"))
            continue
        except DamagedSegmentError as error:
            useless.append((path, str(error)))
            continue
        if segment.footer and entry_of(Binding, segment.footer["binding"]) != binding:
            useless.append((path, f"it belongs to the model {segment.footer['binding']['model']}"))
        elif any(segment.first_id <= newer.last_id and newer.first_id <= segment.last_id for newer in segments):
            useless.append((path, "a newer segment holds its images"))
        else:
            segments.append(segment)
    settings, notes = _settings(folder, segments)
    segments.sort(key=lambda segment: segment.first_id)
    stated = [int(segment.footer.get("next_id", 1)) for segment in segments]
    manifest = Manifest(
        binding,
        generation=max([0, *_generations(folder, segments)]),
        next_segment=max([0, *segment_numbers(folder)]) + 1,
        next_id=max([1, *stated, *(segment.last_id + 1 for segment in segments)]),
        next_ann=max([0, *(int(path.stem) for path in ann_folder(folder).glob("*.faiss") if path.stem.isdigit())]) + 1,
        segments=tuple(segment.entry for segment in segments),
        folders=settings.get("folders", ()),
        excludes=settings.get("excludes", ()),
    )
    lost = frozenset(segment.entry.number for segment in segments if segment.has_lost)
    notes += tuple(
        f"what was dead in segment {number} is lost: removed images may come back" for number in sorted(lost)
    )
    return Rebuilt(manifest, tuple(useless), notes, lost)


def without_deletions(entry: SegmentEntry) -> SegmentEntry:
    """The entry of the same segment if all of its rows and failures counted."""
    return replace(entry, dead=0, removed=0, parts={name: p for name, p in entry.parts.items() if name != DEAD})


def repaired_entry(folder: Path, entry: SegmentEntry, binding: Binding) -> SegmentEntry:
    """The entry of a segment that can be kept, with checksums where it had none, and without its deletion vector where
    only that is damaged. Raises `DamagedSegmentError` if it cannot be kept."""
    faults = segment_faults(folder, entry, binding)
    if faults:
        has_deletions, entry = DEAD in entry.parts, without_deletions(entry)
        if not has_deletions or segment_faults(folder, entry, binding):
            raise DamagedSegmentError(folder, "checked", "; ".join(faults))
    return _summed(folder, entry)


def repeated_ids(collection: Collection) -> list[RowId]:
    """Ids of rows that count although a later row has the same path."""
    table = collection.table(["path", "id"]).sort_by([("path", "ascending"), ("id", "ascending")])
    paths, ids = table["path"].combine_chunks(), table["id"].to_numpy()
    if len(ids) < 2:
        return []
    import pyarrow.compute as pc

    same = pc.equal(paths.slice(1), paths.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    return ids[:-1][same].tolist()


def ids_outside(collection: Collection, numbers: Set[SegmentNumber]) -> list[RowId]:
    """Ids of rows of some segments that count although they are in none of the collection's folders: they were removed
    with their folder, and came back with the loss of a deletion vector. None if no folder is known."""
    ids: list[RowId] = []
    folders = [os.fsencode(folder) for folder in collection.manifest.folders]
    for segment, alive in zip(collection.segments, collection.alive, strict=True):
        if segment.entry.number in numbers and folders and len(segment):
            is_inside = np.any([are_in_folder(segment.column("path"), folder) for folder in folders], axis=0)
            ids += segment.ids[~is_inside if alive is None else alive & ~is_inside].tolist()
    return ids


def set_aside(folder: Path, path: Path) -> Path:
    """Link or copy a file or folder of a collection into the folder of set-aside files; return the new path. The
    original stays: once no manifest names it, it is removed as a leftover."""
    parent = folder / SET_ASIDE
    parent.mkdir(exist_ok=True)
    names = (path.name if number == 0 else f"{path.name}-{number}" for number in count())
    target = next(parent / name for name in names if not (parent / name).exists())
    draft = parent / f"{target.name}.new"
    _remove(draft)
    if path.is_dir():
        shutil.copytree(path, draft, copy_function=_link)
    else:
        _link(str(path), str(draft))
    draft.rename(target)
    return target


def _link(source: str, target: str) -> None:
    """A hard link or, where the file system has none, a copy."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO):
            raise
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _summed(folder: Path, entry: SegmentEntry) -> SegmentEntry:
    """The entry, with checksums also of the parts that had none."""
    parts = {name: p if p.checksum is not None else summed_part(folder, p) for name, p in entry.parts.items()}
    return replace(entry, parts=parts)


def _recovered(folder: Path, number: int, binding: Binding, newest: int | None) -> RecoveredSegment:
    """A segment as its footer describes it, with its newest deletion vector. newest: generation of the newest manifest,
    if known."""
    footer = read_footer(folder) or {}
    if footer:
        entry = _entry(folder, footer, number)
        check_parts(folder, entry)
    else:
        entry = SegmentEntry(number, read_counts(folder, ROWS), read_counts(folder, FAILURES))
    entry = _summed(folder, replace(entry, parts={**entry.parts, ROWS: PartEntry(FILES[ROWS])}))
    entry, has_lost = _with_newest_deletions(folder, entry, newest)
    segment = Segment(folder, entry, binding)
    segment.table()
    first, last = segment.id_span
    if last < first:
        raise DamagedSegmentError(folder, FILES[ROWS], "it is empty")
    return RecoveredSegment(entry, footer, first, last, has_lost)


def _entry(folder: Path, footer: Mapping[str, Any], number: int) -> SegmentEntry:
    """The entry that a footer describes, without a deletion vector."""
    try:
        if int(footer["format"]) > FORMAT:
            raise CrosslookError(f"{folder} has format {footer['format']}: upgrade crosslook")
        refuse_unknown(map(str, (*footer["required"], *footer.get("required_to_write", ()))), folder)
        entry_of(Binding, footer["binding"])
        values = {name: footer[name] for name in ("rows", "failures", "parts")}
        return without_deletions(entry_of(SegmentEntry, values | {"number": number}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedSegmentError(folder, FILES[ROWS], "its footer is damaged") from error


def _with_newest_deletions(folder: Path, entry: SegmentEntry, newest: int | None) -> tuple[SegmentEntry, bool]:
    """The entry with the newest deletion vector that is not damaged, of no commit after the newest that is known; and
    whether a newer vector is damaged. Only the lost manifest had their checksums."""
    names = sorted((path.name for path in folder.iterdir() if DEAD_NAME.fullmatch(path.name)), key=_generation)
    committed = [name for name in names if newest is None or _generation(name) <= newest]
    has_lost = False
    for name in reversed(committed or names):
        try:
            content = (folder / name).read_bytes()
            deletions = parse_deletions(folder, name, content, entry.rows + entry.failures)
        except OSError as error:
            raise unreadable(error, folder / name) from error
        except DamagedSegmentError:
            has_lost = True
            continue
        return with_deletions(entry, deletions, summed_part(folder, PartEntry(name))), has_lost
    return entry, has_lost


def _settings(folder: Path, segments: Sequence[RecoveredSegment]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Folders and excludes, from the rest of a damaged manifest or, failing that, as they were when the newest segment
    was written; and a note where some may be missing."""
    settings = {name: value for name, value in _salvaged(folder).items() if name != "binding"}
    newest = max((s for s in segments if s.footer), key=lambda s: int(s.footer.get("generation", 0)), default=None)
    missing = [name for name in ("folders", "excludes") if name not in settings]
    for name in missing:
        if newest is not None:
            settings[name] = tuple(map(str, newest.footer.get(name, ())))
    if not missing:
        return settings, ()
    excludes = " ".join(settings.get("excludes", ())) or "none"
    source = "could not be found" if newest is None else f"are those of its newest segment (excludes: {excludes})"
    return settings, (f"the folders and excludes of the rebuilt manifest {source}: look at `search status`",)


def _salvaged(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in manifest_names(folder):
        try:
            values = salvaged((folder / name).read_bytes()) | values
        except OSError as error:
            raise unreadable(error, folder / name) from error
    return values


def _generation(name: str) -> int:
    return int("".join(character for character in name if character.isdigit()))


def _generations(folder: Path, segments: Sequence[RecoveredSegment]) -> list[int]:
    """Of all manifests and deletion vectors on disk, damaged or not, and in the footers of segments."""
    folders = [segment_folder(folder, number) for number in segment_numbers(folder)]
    dead = [path.name for parent in folders for path in parent.iterdir() if DEAD_NAME.fullmatch(path.name)]
    stated = [int(segment.footer.get("generation", 0)) for segment in segments]
    return [*stated, *(_generation(name) for name in (*manifest_names(folder), *dead))]
