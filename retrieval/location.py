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
        return expanded(named)
    from platformdirs import user_data_path

    return expanded(str(user_data_path("crosslook", appauthor=False))) / "collection"


def expanded(text: str) -> Path:
    """A path as it is typed, in which `~` and `~user` at the beginning are home folders, unless there is no such user;
    a folder of that name is `./~`. Raises `CrosslookError` where there is no home folder."""
    path = os.path.expanduser(text)
    if path == text and text.partition("/")[0] == "~":
        raise CrosslookError(f"{text}: there is no home folder; set HOME, or name the path from / on")
    return Path(path)


def resolved(folder: str | Path) -> bytes:
    """Under which path a folder is indexed: absolute, through links, so that one folder has one name."""
    return os.path.realpath(os.fsencode(folder))


def spellings(path: str | Path) -> tuple[bytes, ...]:
    """The paths under which something may be indexed: as it is spelled (inside an indexed folder, links keep their
    names), and through links."""
    return tuple({os.path.abspath(os.fsencode(path)), resolved(path)})
