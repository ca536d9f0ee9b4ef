"""Where the user's own collection is, and how folders are named in one."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "CROSSLOOK_INDEX"


def default_collection() -> Path:
    """`$CROSSLOOK_INDEX`, else a folder among the user's data."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("crosslook", appauthor=False) / "collection"


def resolved(folder: str | Path) -> bytes:
    """Under which path a folder is indexed: absolute, through links, so that one folder has one name."""
    return os.path.realpath(os.fsencode(folder))


def spellings(path: str | Path) -> tuple[bytes, ...]:
    """The paths under which something may be indexed: as it is spelled (inside an indexed folder, links keep their
    names), and through links."""
    return tuple({os.path.abspath(os.fsencode(path)), resolved(path)})
