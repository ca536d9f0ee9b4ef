"""Which files and folders rules leave out of a listing."""

from __future__ import annotations

import os
import stat
from collections.abc import Set
from dataclasses import dataclass

from retrieval.indexing.patterns import IGNORE_FILE, Patterns, command_line_patterns, read_ignore_file
from retrieval.indexing.rubbish import is_rubbish

# The patterns of some folders, the innermost first, each with the number of bytes of a path that its patterns do not
# look at.
Ignores = tuple[tuple[int, Patterns], ...]


@dataclass(frozen=True)
class Rules:
    """What is left out besides hidden files. excludes: gitignore patterns relative to each root, which come before what
    `.crosslookignore` files say. include_all: look into folders of thumbnails, trash and `.nomedia` as well."""

    excludes: tuple[str, ...] = ()
    include_all: bool = False


NO_RULES = Rules()


class Exclusion:
    """The rules at work. notes: lines for people about what is wrong with ignore files."""

    def __init__(self, rules: Rules) -> None:
        """Raises `ValueError` with an exclude that is no gitignore pattern."""
        self.include_all = rules.include_all
        self.notes: list[str] = []
        self._excludes = command_line_patterns(rules.excludes)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The excludes that have matched nothing so far."""
        return self._excludes.unmatched

    def ignores_around(self, root: bytes) -> Ignores:
        """Of all folders around a root: the same is left out whichever of them is asked for. Raises `OSError`."""
        ignores: Ignores = ()
        folder = os.path.dirname(root)
        if folder != root:
            ignores = self.ignores_around(folder)
            if _is_there(os.path.join(folder, IGNORE_FILE)):
                ignores = self.ignores_in(folder, ignores)
        return ignores

    def ignores_in(self, folder: bytes, outer: Ignores) -> Ignores:
        """With the folder's own, of which there is a file; a folder or a pipe of that name is none. Raises `OSError`
        where it cannot be read, or is a link to nothing at the moment: what it leaves out may be private."""
        path = os.path.join(folder, IGNORE_FILE)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return outer
            patterns, bad = read_ignore_file(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        self.notes += [f"{os.fsdecode(path)}: {line!r} is not a gitignore pattern" for line in bad]
        return ((length_of(folder), patterns), *outer) if patterns else outer

    def is_excluded(self, path: bytes, root: bytes, ignores: Ignores, is_folder: bool) -> bool:
        """The command line decides before ignore files, an inner one of these before an outer one."""
        if not self._excludes and not ignores:
            return False
        verdict = self._excludes.verdict(os.fsdecode(path[length_of(root) :]), is_folder)
        for length, patterns in ignores:
            if verdict is not None:
                break
            verdict = patterns.verdict(os.fsdecode(path[length:]), is_folder)
        return bool(verdict)

    def is_rubbish(self, path: bytes, siblings: Set[bytes], in_library: bool) -> bool:
        """What nobody took. siblings: all names in the folder around it."""
        folder, name = os.path.split(path)
        return not self.include_all and is_rubbish(name, os.path.basename(folder), siblings, in_library)


def _is_there(path: bytes) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    return True


def _unreadable(path: bytes, error: OSError) -> OSError:
    return OSError(f"{os.fsdecode(path)} cannot be read: {error.strerror}")


def length_of(folder: bytes) -> int:
    """Of what is not relative in the paths below a folder."""
    return len(os.path.join(folder, b""))
