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
    return _user_folder("user_data_path") / "collection"


def cache_folder() -> Path:
    """Where what can be made again is kept. Raises `CrosslookError` where there is no home folder."""
    return _user_folder("user_cache_path")


def _user_folder(kind: str) -> Path:
    import platformdirs

    try:
        return expanded(str(getattr(platformdirs, kind)("crosslook", appauthor=False)))
    except RuntimeError as error:
        raise _homeless("your own folders") from error


def expanded(text: str) -> Path:
    """A path as it is typed, in which `~` and `~user` at the beginning are home folders, unless there is no such user;
    a folder of that name is `./~`. Raises `CrosslookError` where there is no home folder."""
    if text.partition("/")[0] == "~" and not os.path.isabs(os.environ.get("HOME", os.path.expanduser("~"))):
        raise _homeless(text)
    return Path(os.path.expanduser(text))


def _homeless(what: str) -> CrosslookError:
    return CrosslookError(f"{what}: there is no home folder; set HOME, or name the path from / on")


def resolved(folder: str | Path) -> bytes:
    """Under which path a folder is indexed: absolute, through links, so that one folder has one name."""
    return os.path.realpath(os.fsencode(folder))


def spellings(path: str | Path) -> tuple[bytes, ...]:
    """The paths under which something may be indexed: as it is spelled (inside an indexed folder, links keep their
    names), and through links."""
    return tuple({os.path.abspath(os.fsencode(path)), resolved(path)})


def vanished(path: bytes) -> bool:
    """Whether nothing is there for certain; not so where it is only out of reach."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
