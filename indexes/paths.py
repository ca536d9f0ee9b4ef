"""Where the files of a collection lie."""

from __future__ import annotations

import os
import re
from pathlib import Path

from indexes.files import DRAFT
from indexes.numbering import SegmentNumber

_SEGMENT_OR_DRAFT = re.compile(
    rf"(\d{{6,}})((-[0-9a-f]{{16}})?{re.escape(DRAFT)})?"
)  # earlier drafts had no second part


def segments_folder(folder: Path) -> Path:
    """Of all segments of the collection at `folder`."""
    return folder / "segments"


def segment_folder(folder: Path, number: SegmentNumber) -> Path:
    """Of one segment."""
    return segments_folder(folder) / f"{number:06d}"


def new_draft_folder(folder: Path, number: SegmentNumber) -> Path:
    """Where one segment can be written before it gets its name: another place for each call, so that two processes
    that write the same segment never mix their files."""
    place = segment_folder(folder, number)
    return place.with_name(f"{place.name}-{os.urandom(8).hex()}{DRAFT}")


def segment_number(name: str) -> SegmentNumber | None:
    """The number of the segment that a folder of this name is for, as a draft or complete; None for other names."""
    match = _SEGMENT_OR_DRAFT.fullmatch(name)
    return None if match is None else int(match[1])


def ann_folder(folder: Path) -> Path:
    """Of the ANN indexes."""
    return folder / "ann"
