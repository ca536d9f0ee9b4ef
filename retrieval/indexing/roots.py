"""Listing: the folders that a run is asked for (its roots), and their listing under the settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from indexes.errors import CrosslookError
from retrieval.indexing.exclusion import Rules
from retrieval.indexing.listing import Listing, list_images
from retrieval.indexing.settings import Settings
from retrieval.location import resolved, vanished
from retrieval.progress import SILENT, Observer


def find_roots(folders: Sequence[str | Path], indexed: Sequence[str] = ()) -> list[bytes]:
    """The resolved paths of the folders, so that one folder is indexed under one name. indexed: folders that the
    collection covers. An indexed folder may be gone, as that of a drive that is away, unless all folders are.

    Raises `CrosslookError` if there is no such folder."""
    roots: list[bytes] = []
    errors: list[CrosslookError] = []
    for folder in folders:
        path = os.path.abspath(os.fsencode(folder))
        error = _error_of(path)
        if error is None:
            roots.append(resolved(folder))
        elif vanished(path) and os.fsdecode(resolved(folder)) in indexed:
            errors.append(error)
        else:
            raise error
    if errors and not roots:
        raise errors[0]
    return roots


def _error_of(path: bytes) -> CrosslookError | None:
    """Why this is no folder to list; None if it is one."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return CrosslookError(f"no such folder: {os.fsdecode(path)}")
    except OSError as error:
        return CrosslookError(f"cannot read the folder {os.fsdecode(path)}: {error.strerror}")
    if not os.path.isdir(path):
        return CrosslookError(f"not a folder: {os.fsdecode(path)} (give the folder that holds it)")
    return None


def list_roots(
    roots: Sequence[bytes], settings: Settings, observer: Observer = SILENT, remembered: Sequence[str] = ()
) -> Listing:
    """Lists the roots. remembered: excludes of the collection.

    Raises `CrosslookError` for an exclude that is no pattern, and for one to forget that is not remembered;
    `Interrupted` when the observer asks to stop."""
    rules = Rules(excludes_in_force(settings, remembered), settings.include_all)
    try:
        return list_images(roots, rules, observer.should_stop)
    except ValueError as error:
        raise CrosslookError(f"--exclude {str(error)!r} is not a gitignore pattern") from error


def excludes_in_force(settings: Settings, remembered: Sequence[str] = ()) -> tuple[str, ...]:
    """The remembered patterns, then the new ones: the last pattern that matches decides. Raises `CrosslookError` for a
    pattern to forget that is not remembered."""
    for pattern in settings.no_exclude:
        if pattern not in remembered:
            known = ", ".join(map(repr, remembered)) or "none"
            raise CrosslookError(f"the collection remembers no exclude {pattern!r} to take back; it remembers {known}")
    old = [pattern for pattern in remembered if pattern not in (*settings.no_exclude, *settings.exclude)]
    return (*old, *dict.fromkeys(settings.exclude))
