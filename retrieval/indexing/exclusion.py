"""Listing: which files and folders the rules leave out."""

from __future__ import annotations

import os
import stat
from collections.abc import Set
from dataclasses import dataclass

from retrieval.indexing.patterns import IGNORE_FILE, Patterns, command_line_patterns, read_ignore_file
from retrieval.indexing.rubbish import is_rubbish

# The patterns of a folder and of those around it, the innermost first, with the length of the prefix of a path that the
# patterns do not look at, in bytes.
Ignores = tuple[tuple[int, Patterns], ...]


@dataclass(frozen=True)
class Rules:
    """The rules about what is left out, besides hidden files. excludes: gitignore patterns relative to the root, which
    take precedence over `.crosslookignore` files. include_all: look into folders of thumbnails, trash and `.nomedia` as
    well."""

    excludes: tuple[str, ...] = ()
    include_all: bool = False


NO_RULES = Rules()


class Exclusion:
    """Applies the rules during a walk. notes: lines for people about mistakes in ignore files."""

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
        """The patterns of all folders around a root. With them the same is left out whichever of these folders is the
        root. Raises `OSError`."""
        ignores: Ignores = ()
        folder = os.path.dirname(root)
        if folder != root:
            ignores = self.ignores_around(folder)
            if _exists(os.path.join(folder, IGNORE_FILE)):
                ignores = self.ignores_in(folder, ignores)
        return ignores

    def ignores_in(self, folder: bytes, outer: Ignores) -> Ignores:
        """`outer` with the patterns of this folder, which has an ignore file. A folder or a pipe of that name is no
        ignore file. Raises `OSError` if the file cannot be read, or is a link to nothing at the moment: what it
        leaves out may be private."""
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
        """The command line takes precedence over ignore files, an inner ignore file over an outer one."""
        if not self._excludes and not ignores:
            return False
        verdict = self._excludes.verdict(os.fsdecode(path[length_of(root) :]), is_folder)
        for length, patterns in ignores:
            if verdict is not None:
                break
            verdict = patterns.verdict(os.fsdecode(path[length:]), is_folder)
        return bool(verdict)

    def is_rubbish(self, path: bytes, siblings: Set[bytes], in_library: bool) -> bool:
        """Whether a folder holds only what programs made. siblings: all names in its parent folder."""
        folder, name = os.path.split(path)
        return not self.include_all and is_rubbish(name, os.path.basename(folder), siblings, in_library)


def _exists(path: bytes) -> bool:
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
    """The length of a folder's prefix in the paths inside it, in bytes, with the separator."""
    return len(os.path.join(folder, b""))
