"""Where the user's own collection is, and how folders are named in one."""

from __future__ import annotations

import os
from pathlib import Path

from indexes.errors import CrosslookError

VARIABLE = "CROSSLOOK_INDEX"


def default_collection() -> Path:
    """`$CROSSLOOK_INDEX`, else a folder among the user's data. Raises `CrosslookError` where there is no home."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(os.fsdecode(expanded(named)))
    from platformdirs import user_data_path

    path = user_data_path("crosslook", appauthor=False) / "collection"
    if not path.is_absolute():
        raise CrosslookError(
            f"there is no home folder to keep a collection in: set HOME or {VARIABLE}, or give --index"
        )
    return path


def expanded(path: str | Path) -> bytes:
    """With `~` and `~user` at its beginning replaced by the home folder, where there is one."""
    return os.path.expanduser(os.fsencode(path))


def resolved(folder: str | Path) -> bytes:
    """Under which path a folder is indexed: absolute, through links, so that one folder has one name."""
    return os.path.realpath(expanded(folder))


def spellings(path: str | Path) -> tuple[bytes, ...]:
    """The paths under which something may be indexed: as it is spelled (inside an indexed folder, links keep their
    names), and through links."""
    return tuple({os.path.abspath(expanded(path)), resolved(path)})


def vanished(path: bytes) -> bool:
    """Whether nothing is there for certain; not so where it is only out of reach."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
