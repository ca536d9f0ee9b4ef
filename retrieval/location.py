"""Where is the user's collection, and under which paths are folders indexed?"""

from __future__ import annotations

import os
from pathlib import Path

from indexes.errors import CrosslookError

VARIABLE = "CROSSLOOK_INDEX"


def default_collection() -> Path:
    """`$CROSSLOOK_INDEX`, else a folder in the user's data folder. Raises `CrosslookError` without a home folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return expanded(named)
    return _user_folder("user_data_path") / "collection"


def cache_folder() -> Path:
    """The folder for files that can be made again. Raises `CrosslookError` without a home folder."""
    return _user_folder("user_cache_path")


def _user_folder(kind: str) -> Path:
    import platformdirs

    try:
        return expanded(str(getattr(platformdirs, kind)("crosslook", appauthor=False)))
    except RuntimeError as error:
        raise _homeless("your own folders") from error


def expanded(text: str) -> Path:
    """The path for what a user types. `~` and `~user` at the beginning stand for home folders, if there is such a user;
    a folder of that name is typed as `./~`. Raises `CrosslookError` without a home folder."""
    if text.partition("/")[0] == "~" and not os.path.isabs(os.environ.get("HOME", os.path.expanduser("~"))):
        raise _homeless(text)
    return Path(os.path.expanduser(text))


def _homeless(what: str) -> CrosslookError:
    return CrosslookError(f"{what}: there is no home folder; set HOME, or name the path from / on")


def resolved(folder: str | Path) -> bytes:
    """The path under which a folder is indexed: absolute, links resolved, so that one folder has one name."""
    return os.path.realpath(os.fsencode(folder))


def spellings(path: str | Path) -> tuple[bytes, ...]:
    """The paths under which something may be indexed: as it is spelled, since links keep their names inside an indexed
    folder; and with links resolved."""
    return tuple({os.path.abspath(os.fsencode(path)), resolved(path)})


def vanished(path: bytes) -> bool:
    """True only if the path certainly does not exist. False if it is only out of reach."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
