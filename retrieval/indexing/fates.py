"""Planning: what becomes of a known image that was not listed. Its folder decides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import chain

from indexes.folders import is_in_folder
from retrieval.indexing.known import Known
from retrieval.indexing.listing import Listing

SEPARATOR = os.sep.encode()


class Absence(Enum):
    """Why images that were not listed are kept. EMPTIED: their folder holds no images now. UNMOUNTED: their folder was
    a mount point and no longer is. REPLACED: another drive is mounted there now."""

    EMPTIED = "emptied"
    UNMOUNTED = "unmounted"
    REPLACED = "replaced"


@dataclass(frozen=True)
class Fate:
    """stays: whether an image stays known. kept_in: (folder, reason) if the image is kept only because its drive may be
    away; else None. is_left_out: a rule leaves it out."""

    stays: bool
    kept_in: tuple[bytes, Absence] | None = None
    is_left_out: bool = False


STAYS, GONE, LEFT_OUT = Fate(True), Fate(False), Fate(False, is_left_out=True)


class Fates:
    """The fates of images that were not listed. Decided once per folder."""

    def __init__(
        self, listing: Listing, roots: Sequence[bytes], known: Known, vanished: Callable[[bytes], bool]
    ) -> None:
        """vanished: returns True only if the path certainly does not exist."""
        self._listing = listing
        self._roots = frozenset(roots)
        self._unlisted_paths = frozenset(path for path, _ in listing.unlisted)
        self._former_mounts = frozenset(mount for mount in known.mounts if is_in_folder(mount, roots)) - listing.mounts
        remembered = frozenset(known.devices) - frozenset(known.mounts) - frozenset(known.folders)
        self._gone_folders = frozenset(folder for folder in remembered if is_in_folder(folder, roots)) - listing.visited
        unvisited = (folder for folder in known.folders if folder not in listing.visited and folder not in self._roots)
        self._unreached_folders = frozenset(folder for folder in unvisited if not vanished(os.path.join(folder, b".")))
        self._fates: dict[bytes, Fate] = {}

    def fate_of(self, path: bytes) -> Fate:
        """The fate of the image that was at this path."""
        if path in self._unlisted_paths:
            return STAYS
        folder = path[: path.rfind(SEPARATOR)]  # called for millions; os.path.dirname takes four times as long
        fate = self._fates.get(folder)
        if fate is None:
            fate = self._fates[folder] = self._fate_in(tuple(_with_parents(os.path.dirname(path))))
        return fate

    def _fate_in(self, path_folders: Sequence[bytes]) -> Fate:
        """path_folders: the folder and its parents, the innermost first."""
        if self._roots.isdisjoint(path_folders):
            return STAYS
        for folder in path_folders:
            if folder in self._unreached_folders or folder in self._unlisted_paths:
                return STAYS
            if folder in self._listing.left_out:
                return LEFT_OUT
            if folder in self._listing.visited:
                break
        for folder in reversed(path_folders):
            if folder in self._former_mounts:
                return Fate(True, (folder, Absence.UNMOUNTED))
            if folder in self._gone_folders:  # a program that mounts a drive may make and remove its folder
                return Fate(True, (folder, Absence.EMPTIED))
        for folder in reversed(path_folders):
            if folder in self._listing.visited and folder not in self._folders_with_images:
                return Fate(True, (folder, Absence.EMPTIED))
        return GONE

    @cached_property
    def _folders_with_images(self) -> set[bytes]:
        """The folders that hold images, at any depth."""
        with_images: set[bytes] = set()
        images = (os.path.dirname(file.path) for file in self._listing.files if not file.is_broken_link)
        for folder in chain(images, self._listing.occupied):
            while folder not in with_images:
                with_images.add(folder)
                folder = os.path.dirname(folder)
        return with_images


def _with_parents(folder: bytes) -> Iterator[bytes]:
    while True:
        yield folder
        outer = os.path.dirname(folder)
        if outer == folder:
            return
        folder = outer
