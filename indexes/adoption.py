"""Segments that other processes wrote: whether they can be published, and where they belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from indexes.checksums import file_checksum
from indexes.errors import DamagedSegmentError, missing_file
from indexes.files import reading_from
from indexes.manifest import FILES, ROWS, Binding, SegmentEntry
from indexes.manifest_file import entry_of, plain
from indexes.paths import segment_folder
from indexes.segment import Segment, read_footer
from indexes.segment_files import Reservation, ids_fault


def adoptable(folder: Path, entry: SegmentEntry, reservation: Reservation | None) -> Segment:
    """The segment of an entry, opened. folder: of the collection. reservation: of this segment, or None.

    Raises `ValueError` if it is not the segment that was reserved, `DamagedSegmentError` if its files are not
    those of the entry, `CrosslookError` if they cannot be read now."""
    if reservation is None:
        raise ValueError(f"segment {entry.number} is not reserved")
    segment_path = segment_folder(folder, entry.number)
    with reading_from(segment_path):
        try:
            _check_sizes(segment_path, entry)
            segment = Segment(segment_path, entry, reservation.manifest.binding)
            footer = read_footer(segment_path) or {}
            if _binding(segment_path, footer) != reservation.manifest.binding or footer.get("number") != entry.number:
                raise ValueError(f"{segment_path} was not written for this collection")
            _check_parts(segment, footer)
            fault = ids_fault(segment.ids, segment.failure_ids, reservation.ids)
        except FileNotFoundError as error:
            raise missing_file(segment_path, error) from error
    if fault is not None:
        raise ValueError(f"{segment_path} is not what was reserved: {fault}")
    return segment


def placed(
    entries: Sequence[SegmentEntry], segments: Sequence[Segment], adopted: Sequence[Segment]
) -> list[SegmentEntry]:
    """The entries of a commit with adopted segments, in the order of ids. entries: of `segments`, those in force."""
    spans = [(segment.id_span, entry) for segment, entry in zip(segments, entries, strict=True)]
    spans += [(segment.id_span, segment.entry) for segment in adopted]
    return [entry for _, entry in sorted(spans, key=lambda span: span[0])]


def _check_sizes(folder: Path, entry: SegmentEntry) -> None:
    for part in entry.parts.values():
        size = (folder / part.file).stat().st_size
        if size != part.bytes:
            raise DamagedSegmentError(folder, part.file, f"it has {size:,} bytes, expected {part.bytes}")


def _check_parts(segment: Segment, footer: Mapping[str, Any]) -> None:
    """Compare an entry with what was written. The footer of the rows has the checksums of all other parts, and the rows
    are read to check their own. So nothing can differ but what the disk has lost since, as in any segment."""
    entry, noted = segment.entry, footer["parts"]
    for name in sorted({*FILES, *entry.parts, *noted} - {ROWS}):
        part = entry.parts.get(name)
        if part is None or noted.get(name) != plain(part):
            raise DamagedSegmentError(segment.folder, FILES.get(name, name), "it is not the file that the entry names")
    rows = entry.parts.get(ROWS)
    if rows is None or rows.file != FILES[ROWS] or rows.checksum != file_checksum(segment.folder / rows.file)[1]:
        raise DamagedSegmentError(segment.folder, FILES[ROWS], "it is not the file that the entry names")
    deletions = segment.deletions
    counts = footer["rows"], footer["failures"], len(deletions), deletions.removed.sum()
    if counts != (entry.rows, entry.failures, entry.dead, entry.removed):
        raise DamagedSegmentError(segment.folder, FILES[ROWS], "the entry has other counts")


def _binding(folder: Path, footer: dict[str, object]) -> Binding:
    try:
        return entry_of(Binding, footer["binding"])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedSegmentError(folder, ROWS, "its footer is damaged") from error
