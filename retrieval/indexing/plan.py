"""Planning: the parts of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retrieval.indexing.fates import Absence
from retrieval.indexing.files import File


@dataclass(frozen=True, slots=True)
class Encoding:
    """A file to encode. replaces: id of the row or failure that it replaces; changed: that is a row. may_be_known: its
    size is that of a row (also of one that was removed and can be revived) or of another file to encode, so that its
    content may be the same. Without it the content is certainly new."""

    file: File
    replaces: int | None = None
    changed: bool = False
    may_be_known: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """As that of `File`."""
        return Encoding, (self.file, self.replaces, self.changed, self.may_be_known)


@dataclass(frozen=True, slots=True)
class Rename:
    """A file whose content is known already: at `position` of the collection, in the row with the id `replaces` and the
    path `old`. The file's row takes its place."""

    file: File
    position: int
    replaces: int
    old: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    """A row or failure whose file is no longer where it was."""

    id: int
    path: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of which images stay known though their files are absent: how many, and why."""

    folder: bytes
    images: int
    why: Absence


@dataclass(frozen=True)
class Plan:
    """What brings a collection up to date. Every listed file is in one group, and so is every row without its file.

    - `add`: new files, and files that failed before and have changed since. Where `may_be_known` is set, the content
      may turn out to be that of a row that stays (a copy) or that was removed (it is revived).
    - `reencode`: files with a row of the same path and other content.
    - `touch`: files with a row of the same path and content, which is to get the new times.
    - `rename`: new files with the content of a row whose own path has no file any more, in these folders or elsewhere.
    - `unchanged`, `still_failing`: counts of files to leave alone, since size and times are those of their row or of
      their failure. An unknown ctime is not compared.
    - `remove`, `forget`: rows and failures whose files are gone from the folders, or left out by a rule.
    - `kept`: count of rows that stay though their files are absent, in the folders `kept_in`."""

    add: tuple[Encoding, ...] = ()
    reencode: tuple[Encoding, ...] = ()
    rename: tuple[Rename, ...] = ()
    touch: tuple[Rename, ...] = ()
    remove: tuple[Gone, ...] = ()
    forget: tuple[Gone, ...] = ()
    unchanged: int = 0
    still_failing: int = 0
    kept: int = 0
    kept_in: tuple[Kept, ...] = ()
