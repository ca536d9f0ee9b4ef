"""What lies in a collection's folder and is not part of it: leftovers of a crash, and files of other programs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

from indexes.commits import CURRENT, current_name, find_commit
from indexes.errors import CrosslookError
from indexes.files import DRAFT, discard
from indexes.manifest import Manifest
from indexes.manifest_file import MANIFEST_NAME
from indexes.numbering import SegmentNumber
from indexes.paths import ann_folder, segment_folder, segment_number, segments_folder
from indexes.recovery import SET_ASIDE
from indexes.writer_lock import HOLDER, LOCK

IN_FLIGHT = "decoding"  # a note that an index run keeps in the collection's folder
OURS = (LOCK, HOLDER, "segments", "ann", CURRENT, CURRENT + DRAFT, SET_ASIDE, IN_FLIGHT)
ANN_NAME = re.compile(r"\d{6,}\.faiss")


def refuse_foreign(folder: Path) -> None:
    """Raises `CrosslookError` if `folder` is no collection and holds something else."""
    if folder.exists() and not folder.is_dir():
        raise CrosslookError(f"{folder} is a file: -i names the collection's own folder")
    if not folder.is_dir() or current_name(folder) is not None or _is_collection(folder):
        return
    segments = segments_folder(folder)
    foreign = [path for path in folder.iterdir() if not _is_ours(path.name)]
    if segments.is_dir():
        inside = list(segments.iterdir())
        foreign += [path for path in inside if segment_number(path.name) is None]
        folders = [path for path in inside if segment_number(path.name) is not None]
        files = [path for subfolder in folders for path in subfolder.iterdir()]
        foreign += [path for path in files if path.suffix not in (".npy", ".parquet")]
    if ann_folder(folder).is_dir():
        foreign += [path for path in ann_folder(folder).iterdir() if not ANN_NAME.fullmatch(path.name)]
    if foreign:
        raise CrosslookError(
            f"{folder} is not a collection and not empty (it holds {foreign[0].relative_to(folder)}): choose another "
            "-i COLLECTION"
        )


def _is_collection(folder: Path) -> bool:
    """Whether something was committed here, though CURRENT is lost."""
    try:
        return find_commit(folder) is not None
    except CrosslookError:
        return True


def remove_leftovers(folder: Path, manifest: Manifest, reserved: Container[SegmentNumber] = ()) -> None:
    """Remove what a crash, a merge or an earlier commit left behind. manifest: the one in force. reserved: segments
    that another process may be writing. What cannot be removed now does no harm."""
    with suppress(OSError):
        for path in list(_leftovers(folder, manifest, reserved)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                discard(path)


def _leftovers(folder: Path, manifest: Manifest, reserved: Container[SegmentNumber]) -> Iterator[Path]:
    """Drafts, and files with names of ours that the manifest does not name."""
    entries = {segment_folder(folder, entry.number).name: entry for entry in manifest.segments}
    for subfolder in segments_folder(folder).iterdir():
        number = segment_number(subfolder.name)
        if subfolder.name in entries:
            files = {part.file for part in entries[subfolder.name].parts.values()}
            yield from (path for path in subfolder.glob("dead-*.npy") if path.name not in files)
        elif number is not None and number not in reserved:
            yield subfolder
    for path in folder.iterdir():
        is_old = MANIFEST_NAME.fullmatch(path.name) and path.name != manifest.file_name
        is_draft = MANIFEST_NAME.fullmatch(path.name.removesuffix(DRAFT)) and path.name.endswith(DRAFT)
        if is_old or is_draft or path.name == CURRENT + DRAFT:
            yield path
    for path in ann_folder(folder).glob("*.faiss"):
        if ANN_NAME.fullmatch(path.name) and (manifest.ann is None or path.name != manifest.ann.file_name):
            yield path


def _is_ours(name: str) -> bool:
    return name in OURS or MANIFEST_NAME.fullmatch(name.removesuffix(DRAFT)) is not None
