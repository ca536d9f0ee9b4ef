"""Which manifest is in force, also after a crash or damage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexes.errors import CrosslookError, DamagedCollectionError
from indexes.files import replace_durably
from indexes.manifest import Manifest
from indexes.manifest_file import MANIFEST_NAME, read_manifest, write_manifest_file

CURRENT = "CURRENT"
ATTEMPTS = 5


@dataclass(frozen=True)
class Commit:
    """The manifest in force. fault: what is wrong with CURRENT, where that does not name this manifest; then it is the
    newest one that is not damaged."""

    manifest: Manifest
    fault: str | None = None


def put_in_force(folder: Path, manifest: Manifest) -> None:
    """Write a manifest, then let CURRENT name it: this is the moment of the commit."""
    write_manifest_file(folder, manifest)
    name_current(folder, manifest)


def name_current(folder: Path, manifest: Manifest) -> None:
    """Let CURRENT name a manifest that is already written."""
    replace_durably(folder / CURRENT, manifest.file_name.encode() + b"\n")


def find_commit(folder: Path) -> Commit | None:
    """The commit in force; None if nothing was ever committed.

    Raises `DamagedCollectionError` if the manifest in force is damaged, or CURRENT and all manifests are, and as
    `read_manifest` does for one that needs a later version."""
    for _ in range(ATTEMPTS):  # a writer may replace and remove what CURRENT names before it is read
        name = current_name(folder)
        if name is None or not MANIFEST_NAME.fullmatch(name):
            break
        try:
            return Commit(read_manifest(folder, name))
        except FileNotFoundError:
            if current_name(folder) == name:
                break
    fault = "it is missing" if name is None else f"it names {name[:40]!r}"
    fault += ", which is missing" if name is not None and MANIFEST_NAME.fullmatch(name) else ""
    manifest = next(whole_manifests(folder), None)
    if manifest is not None:
        return Commit(manifest, f"{folder / CURRENT} is damaged: {fault}")
    if name is None and all(generation_of(manifest) == 1 for manifest in manifest_names(folder)):
        return None  # the very first commit was interrupted: CURRENT is written last
    raise DamagedCollectionError(folder / CURRENT, f"{fault}, and no manifest is whole")


def current_name(folder: Path) -> str | None:
    """What CURRENT names; None if there is no such file."""
    try:
        return (folder / CURRENT).read_bytes().decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CrosslookError(f"cannot read the collection {folder}: {error.strerror}") from error


def manifest_names(folder: Path) -> list[str]:
    """The names of files that may be manifests, newest first."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if MANIFEST_NAME.fullmatch(path.name)]
    return sorted(names, key=lambda name: (len(name), name), reverse=True)


def whole_manifests(folder: Path, after: int = -1) -> Iterator[Manifest]:
    """The manifests that are not damaged, newest first. after: only of generations after this, by their names. Raises
    as `read_manifest` does for one that needs a later version."""
    for name in manifest_names(folder):
        if generation_of(name) <= after:
            return
        try:
            yield read_manifest(folder, name)
        except (DamagedCollectionError, FileNotFoundError):
            continue


def generation_of(name: str) -> int:
    """Of a manifest, by the name of its file."""
    return int(name.removeprefix("manifest-").removesuffix(".json"))
