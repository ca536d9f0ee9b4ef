"""What lies in a collection's folder and is not part of it: leftovers of a crash, and files of somebody else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from indexes.collection import ann_folder, segment_folder
from indexes.commits import CURRENT, current_name, is_manifest_draft
from indexes.errors import CrosslookError
from indexes.files import DRAFT
from indexes.manifest import Manifest
from indexes.manifest_file import MANIFEST_NAME
from indexes.recovery import SEGMENT_NAME, SET_ASIDE
from indexes.writer_lock import HOLDER, LOCK

OURS = (LOCK, HOLDER, "segments", "ann", CURRENT, CURRENT + DRAFT, SET_ASIDE)
ANN_NAME = re.compile(r"\d{6,}\.faiss")


def refuse_foreign(folder: Path) -> None:
    """A folder becomes a collection only if nothing in it is anybody else's."""
    if folder.exists() and not folder.is_dir():
        raise CrosslookError(f"{folder} is a file: --index names the collection's own folder")
    if not folder.is_dir() or current_name(folder) is not None:
        return
    segments = folder / "segments"
    foreign = [path for path in folder.iterdir() if not _is_ours(path.name)]
    if segments.is_dir():
        inside = list(segments.iterdir())
        foreign += [path for path in inside if not SEGMENT_NAME.fullmatch(path.name.removesuffix(DRAFT))]
        folders = [path for path in inside if SEGMENT_NAME.fullmatch(path.name.removesuffix(DRAFT))]
        foreign += [path for place in folders for path in place.iterdir() if path.suffix not in (".npy", ".parquet")]
    if ann_folder(folder).is_dir():
        foreign += [path for path in ann_folder(folder).iterdir() if not ANN_NAME.fullmatch(path.name)]
    if foreign:
        raise CrosslookError(
            f"{folder} is not a collection and not empty (it holds {foreign[0].relative_to(folder)}): choose another "
            "--index"
        )


def remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Remove what a crash, a merge or an earlier commit left behind: drafts, and what the manifest in force does
    not name. Only ever called with a manifest that was read whole."""
    named = {segment_folder(folder, entry.number).name: entry for entry in manifest.segments}
    for place in (folder / "segments").iterdir():
        is_ours = SEGMENT_NAME.fullmatch(place.name.removesuffix(DRAFT)) is not None
        if is_ours and place.name not in named:
            shutil.rmtree(place, ignore_errors=True)
        elif is_ours:
            parts = {part.file for part in named[place.name].parts.values()}
            for path in place.glob("dead-*.npy"):
                if path.name not in parts:
                    path.unlink(missing_ok=True)
    in_force = current_name(folder)
    for path in folder.iterdir():
        is_old = MANIFEST_NAME.fullmatch(path.name) and path.name != in_force
        if is_old or is_manifest_draft(path.name) or path.name == CURRENT + DRAFT:
            path.unlink(missing_ok=True)
    ann = manifest.ann
    for path in ann_folder(folder).glob("*.faiss"):
        if ANN_NAME.fullmatch(path.name) and (ann is None or path.name != ann.file_name):
            path.unlink(missing_ok=True)


def _is_ours(name: str) -> bool:
    return name in OURS or MANIFEST_NAME.fullmatch(name.removesuffix(DRAFT)) is not None
