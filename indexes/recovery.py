"""Make a lost manifest anew from the segments, and repair what is damaged. Nothing is deleted: what cannot be used is
set aside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.collection import Collection, ann_folder, segment_folder
from indexes.commits import find_commit, manifest_names
from indexes.deletions import parse_deletions
from indexes.errors import DamagedCollectionError, DamagedSegmentError
from indexes.manifest import DEAD, FILES, ROWS, Binding, Manifest, PartEntry, SegmentEntry
from indexes.manifest_file import entry_of, salvaged_folders
from indexes.segment import Segment, read_footer
from indexes.segment_files import with_deletions
from indexes.verification import check_parts, segment_faults, summed_part

SET_ASIDE = "set-aside"
SEGMENT_NAME = re.compile(r"\d{6,}")
DEAD_NAME = re.compile(r"dead-(\d{6,})\.npy")
SKIPPED_IDS = 2**20  # after the largest id that is left: larger ones may have been given, and none is given twice


@dataclass(frozen=True)
class Rebuilt:
    """manifest: not written yet. useless: segments' folders that are not part of it, with the reasons."""

    manifest: Manifest
    useless: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class Whole:
    """A segment that is whole. first_id, last_id: of all of its entries, dead ones too."""

    entry: SegmentEntry
    binding: Binding
    generation: int
    first_id: int
    last_id: int


def segment_numbers(folder: Path) -> list[int]:
    """The numbers of the segments that are on disk, ascending."""
    place = folder / "segments"
    names = [path.name for path in place.iterdir()] if place.is_dir() else []
    return sorted(int(name) for name in names if SEGMENT_NAME.fullmatch(name))


def current_binding(folder: Path) -> Binding | None:
    """What the collection is bound to: by its manifest or, where that is lost, by its newest segment that says it. None
    where there is no collection."""
    try:
        commit = find_commit(folder)
    except DamagedCollectionError:
        return _binding_of_segments(folder)
    return _binding_of_segments(folder) if commit is None else commit.manifest.binding


def _binding_of_segments(folder: Path) -> Binding | None:
    for number in reversed(segment_numbers(folder)):
        try:
            footer = read_footer(segment_folder(folder, number))
            if footer is not None:
                return entry_of(Binding, footer["binding"])
        except (DamagedSegmentError, FileNotFoundError, KeyError, TypeError, ValueError):
            continue
    return None


def rebuild(folder: Path) -> Rebuilt | None:
    """The manifest that the segments on disk amount to; None where none of them says what it is.

    Of segments with the same images the newest counts: a merge was not finished. Raises `CrosslookError` where a file
    cannot be read now."""
    wholes: list[Whole] = []
    useless: list[tuple[Path, str]] = []
    for number in reversed(segment_numbers(folder)):
        place = segment_folder(folder, number)
        try:
            segment = _read_whole(place, number)
        except FileNotFoundError as error:
            useless.append((place, f"{Path(str(error.filename)).name} is missing"))
            continue
        except DamagedSegmentError as error:
            useless.append((place, str(error)))
            continue
        if segment is None:
            useless.append((place, "it does not say which model it belongs to"))
        elif wholes and segment.binding != wholes[0].binding:
            useless.append((place, f"it belongs to the model {segment.binding.model}"))
        elif any(segment.first_id <= newer.last_id and newer.first_id <= segment.last_id for newer in wholes):
            useless.append((place, "a newer segment holds its images"))
        else:
            wholes.append(segment)
    if not wholes:
        return None
    wholes.sort(key=lambda segment: segment.first_id)
    people = next(filter(None, (_salvaged(folder, name) for name in manifest_names(folder))), {})
    manifest = Manifest(
        wholes[0].binding,
        generation=max([*(segment.generation for segment in wholes), *_generations(folder)]),
        next_segment=max(segment_numbers(folder)) + 1,
        next_id=wholes[-1].last_id + 1 + SKIPPED_IDS,
        next_ann=max([0, *(int(path.stem) for path in ann_folder(folder).glob("*.faiss") if path.stem.isdigit())]) + 1,
        segments=tuple(segment.entry for segment in wholes),
        folders=people.get("folders", ()),
        excludes=people.get("excludes", ()),
    )
    return Rebuilt(manifest, tuple(useless))


def repaired_entry(folder: Path, entry: SegmentEntry, binding: Binding) -> SegmentEntry | str:
    """The entry of a segment as it can be kept, with checksums where it had none; or why it cannot be.

    Without its deletion vector, where only that is damaged: which rows are dead is found out again."""
    without = replace(entry, dead=0, removed=0, parts={name: p for name, p in entry.parts.items() if name != DEAD})
    faults = segment_faults(folder, entry, binding)
    if faults and (DEAD not in entry.parts or segment_faults(folder, without, binding)):
        return "; ".join(faults)
    kept = without if faults else entry
    parts = {name: p if p.checksum is not None else summed_part(folder, p) for name, p in kept.parts.items()}
    return replace(kept, parts=parts)


def repeated_ids(collection: Collection) -> NDArray[np.int64]:
    """Ids of living rows whose path a later row has as well."""
    table = collection.table(["id", "path"])
    newest: dict[bytes, int] = {}
    for row, path in zip(table["id"].to_pylist(), table["path"].to_pylist(), strict=True):
        newest[path] = max(row, newest.get(path, 0))
    pairs = zip(table["id"].to_pylist(), table["path"].to_pylist(), strict=True)
    return np.array([row for row, path in pairs if newest[path] != row], np.int64)


def set_aside(folder: Path, path: Path) -> Path:
    """Move a file or folder of a collection to where nothing looks for it; returns its new place."""
    place = folder / SET_ASIDE
    place.mkdir(exist_ok=True)
    names = (path.name if number == 0 else f"{path.name}-{number}" for number in count())
    target = next(place / name for name in names if not (place / name).exists())
    path.rename(target)
    return target


def _read_whole(folder: Path, number: int) -> Whole | None:
    """A segment by its footer, with its newest deletion vector; None where it has no footer."""
    footer = read_footer(folder)
    if footer is None:
        return None
    entry, binding = _parsed(folder, footer, number)
    check_parts(folder, replace(entry, parts={name: p for name, p in entry.parts.items() if name != DEAD}))
    entry = replace(entry, parts={**entry.parts, ROWS: summed_part(folder, PartEntry(FILES[ROWS]))})
    entry = _with_newest_deletions(folder, entry)
    segment = Segment(folder, entry, binding)
    ids = np.concatenate([segment.ids, segment.failures()["id"].to_numpy()])
    if not len(ids):
        raise DamagedSegmentError(folder, FILES[ROWS], "it is empty")
    return Whole(entry, binding, int(footer.get("generation", 0)), int(ids.min()), int(ids.max()))


def _parsed(folder: Path, footer: Mapping[str, Any], number: int) -> tuple[SegmentEntry, Binding]:
    try:
        values = {name: footer[name] for name in ("rows", "failures", "parts")}
        return entry_of(SegmentEntry, values | {"number": number}), entry_of(Binding, footer["binding"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedSegmentError(folder, FILES[ROWS], "its footer is damaged") from error


def _with_newest_deletions(folder: Path, entry: SegmentEntry) -> SegmentEntry:
    """With the newest deletion vector that is whole, whose own checksum only the lost manifest had."""
    entry = replace(entry, parts={name: part for name, part in entry.parts.items() if name != DEAD})
    names = sorted((path.name for path in folder.iterdir() if DEAD_NAME.fullmatch(path.name)), key=_generation)
    for name in reversed(names):
        try:
            content = (folder / name).read_bytes()
            deletions = parse_deletions(folder, name, content, entry.rows + entry.failures)
        except DamagedSegmentError:
            continue
        return with_deletions(entry, deletions, summed_part(folder, PartEntry(name)))
    return entry


def _generation(name: str) -> int:
    return int("".join(character for character in name if character.isdigit()))


def _generations(folder: Path) -> Sequence[int]:
    """Of manifests and deletion vectors that are on disk, whole or not."""
    places = [segment_folder(folder, number) for number in segment_numbers(folder)]
    dead = [path.name for place in places for path in place.iterdir() if DEAD_NAME.fullmatch(path.name)]
    return [_generation(name) for name in (*manifest_names(folder), *dead)]


def _salvaged(folder: Path, name: str) -> dict[str, tuple[str, ...]]:
    return salvaged_folders((folder / name).read_bytes())
