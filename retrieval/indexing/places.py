"""What becomes of an image that is known and was not listed, by the folder in which it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import chain

from indexes.collection import folder_prefix
from retrieval.indexing.known import Known
from retrieval.indexing.listing import Listing

SEPARATOR = os.sep.encode()


class Absence(Enum):
    """Why images that were not listed are kept: their folder holds none now; it was a mount point and is none now; it
    is on another drive now."""

    EMPTIED = "emptied"
    UNMOUNTED = "unmounted"
    REPLACED = "replaced"


@dataclass(frozen=True)
class Fate:
    """stays: whether an image stays known. kept_in: the folder because of which it does, and why, where that is a
    matter of doubt. is_left_out: a rule leaves it out."""

    stays: bool
    kept_in: tuple[bytes, Absence] | None = None
    is_left_out: bool = False


STAYS, GONE, LEFT_OUT = Fate(True), Fate(False), Fate(False, is_left_out=True)


class Places:
    """The folders that a run covers, looked up by what lies in them."""

    def __init__(
        self, listing: Listing, roots: Sequence[bytes], known: Known, vanished: Callable[[bytes], bool]
    ) -> None:
        """vanished: whether nothing is at a path for certain."""
        self._listing = listing
        self._roots = frozenset(roots)
        self._unlisted = frozenset(place for place, _ in listing.unlisted)
        self._away = frozenset(mount for mount in known.mounts if is_below(mount, roots)) - listing.mounts
        remembered = frozenset(known.devices) - frozenset(known.mounts) - frozenset(known.folders)
        self._emptied = frozenset(folder for folder in remembered if is_below(folder, roots)) - listing.visited
        unvisited = (folder for folder in known.folders if folder not in listing.visited and folder not in self._roots)
        self._apart = frozenset(folder for folder in unvisited if not vanished(os.path.join(folder, b".")))
        self._fates: dict[bytes, Fate] = {}

    def fate_of(self, path: bytes) -> Fate:
        """Of what was at a path below which nothing lies."""
        if path in self._unlisted:
            return STAYS
        folder = path[: path.rfind(SEPARATOR)]  # of millions; os.path.dirname takes four times as long
        fate = self._fates.get(folder)
        if fate is None:
            fate = self._fates[folder] = self._fate_in(tuple(_outwards(os.path.dirname(path))))
        return fate

    def _fate_in(self, around: Sequence[bytes]) -> Fate:
        """around: the folder and those around it, the innermost first."""
        if self._roots.isdisjoint(around):
            return STAYS
        for folder in around:
            if folder in self._apart or folder in self._unlisted:
                return STAYS
            if folder in self._listing.left_out:
                return LEFT_OUT
            if folder in self._listing.visited:
                break
        for folder in reversed(around):
            if folder in self._away:
                return Fate(True, (folder, Absence.UNMOUNTED))
            if folder in self._emptied:  # and kept before; who mounts a drive may make and remove its folder
                return Fate(True, (folder, Absence.EMPTIED))
        for folder in reversed(around):
            if folder in self._listing.visited and folder not in self._holding:
                return Fate(True, (folder, Absence.EMPTIED))
        return GONE

    @cached_property
    def _holding(self) -> set[bytes]:
        """The folders in which images are, at any depth."""
        holding: set[bytes] = set()
        images = (os.path.dirname(file.path) for file in self._listing.files if not file.is_broken_link)
        for folder in chain(images, self._listing.occupied):
            while folder not in holding:
                holding.add(folder)
                folder = os.path.dirname(folder)
        return holding


def is_below(path: bytes, folders: Sequence[bytes]) -> bool:
    """Whether the path is one of the folders or lies in one of them."""
    return any(path == folder or path.startswith(folder_prefix(folder)) for folder in folders)


def _outwards(folder: bytes) -> Iterator[bytes]:
    while True:
        yield folder
        outer = os.path.dirname(folder)
        if outer == folder:
            return
        folder = outer
