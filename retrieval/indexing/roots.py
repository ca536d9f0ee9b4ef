"""The folders that a run is asked to look at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from indexes.errors import CrosslookError
from retrieval.location import resolved, vanished


def find_roots(folders: Sequence[str | Path], indexed: Sequence[str] = ()) -> list[bytes]:
    """The folders' own paths, through links, so that one folder is indexed under one name. indexed: folders that a
    collection covers; of these some may be gone, a drive that is away, unless all are.

    Raises `CrosslookError` where there is no such folder."""
    roots: list[bytes] = []
    errors: list[CrosslookError] = []
    for folder in folders:
        path = os.path.abspath(os.fsencode(folder))
        error = _fault(path)
        if error is None:
            roots.append(resolved(folder))
        elif vanished(path) and os.fsdecode(resolved(folder)) in indexed:
            errors.append(error)
        else:
            raise error
    if errors and not roots:
        raise errors[0]
    return roots


def _fault(path: bytes) -> CrosslookError | None:
    """Why this is no folder to list."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return CrosslookError(f"no such folder: {os.fsdecode(path)}")
    except OSError as error:
        return CrosslookError(f"cannot read the folder {os.fsdecode(path)}: {error.strerror}")
    if not os.path.isdir(path):
        return CrosslookError(f"not a folder: {os.fsdecode(path)} (give the folder that holds it)")
    return None
