"""Which manifest is in force, also after a crash or a damage."""

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
    """A manifest that counts. fault: what is wrong with CURRENT, where that does not name it; then it is the newest
    manifest that is whole."""

    manifest: Manifest
    fault: str | None = None


def put_in_force(folder: Path, manifest: Manifest) -> None:
    """Write a manifest, and then let CURRENT name it."""
    write_manifest_file(folder, manifest)
    name_current(folder, manifest)


def name_current(folder: Path, manifest: Manifest) -> None:
    """Let CURRENT name a manifest that is written already."""
    replace_durably(folder / CURRENT, manifest.file_name.encode() + b"\n")


def find_commit(folder: Path) -> Commit | None:
    """The commit in force; None where nothing was ever committed.

    Raises `DamagedCollectionError` where the manifest in force is not whole, or CURRENT is not and no manifest is, and
    what `read_manifest` raises of one that needs a later version."""
    for _ in range(ATTEMPTS):  # a writer may replace, and remove, what CURRENT names before it is read
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
    if name is None and all(_is_first(manifest) for manifest in manifest_names(folder)):
        return None  # the first commit ever was interrupted: CURRENT comes last
    raise DamagedCollectionError(folder / CURRENT, f"{fault}, and no manifest is whole")


def current_name(folder: Path) -> str | None:
    """What CURRENT names; None where there is none."""
    try:
        return (folder / CURRENT).read_bytes().decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CrosslookError(f"cannot read the collection {folder}: {error.strerror}") from error


def manifest_names(folder: Path) -> list[str]:
    """The files that are called manifests, newest first."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if MANIFEST_NAME.fullmatch(path.name)]
    return sorted(names, key=lambda name: (len(name), name), reverse=True)


def whole_manifests(folder: Path) -> Iterator[Manifest]:
    """Those that are whole, newest first. Raises what `read_manifest` raises of one that needs a later version."""
    for name in manifest_names(folder):
        try:
            yield read_manifest(folder, name)
        except (DamagedCollectionError, FileNotFoundError):
            continue


def _is_first(name: str) -> bool:
    return int(name.removeprefix("manifest-").removesuffix(".json")) == 1
