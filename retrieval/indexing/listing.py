"""Find the image files below some folders."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from retrieval.images import ENDINGS


@dataclass(frozen=True, slots=True)
class File:
    """An image file as the file system describes it. path: absolute. size: bytes. times: nanoseconds. is_broken_link:
    it points to nothing, at the moment at least."""

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    is_broken_link: bool = False


@dataclass(frozen=True)
class Listing:
    """The image files below some folders, sorted by path; what could not be looked at, with reasons; and the folders
    that were."""

    files: tuple[File, ...]
    unlisted: tuple[tuple[bytes, str], ...]
    visited: frozenset[bytes] = frozenset()


def list_images(folders: Sequence[bytes], exclude: Sequence[str] = ()) -> Listing:
    """All image files below the folders, by their endings. Hidden files and folders are skipped, symbolic links
    followed, no folder visited twice. exclude: patterns on a name, or on a path relative to its folder."""
    walk = _Walk(tuple(exclude))
    for root in folders:
        walk.visit(root, root)
    while walk.links:  # after all real folders, so that a link takes nothing over from what it points to
        walk.visit(*walk.links.popleft())
    files = tuple(walk.files[path] for path in sorted(walk.files))
    return Listing(files, tuple(walk.unlisted), frozenset(walk.visited))


class _Walk:
    """What was found so far."""

    def __init__(self, exclude: tuple[str, ...]) -> None:
        self.files: dict[bytes, File] = {}
        self.unlisted: list[tuple[bytes, str]] = []
        self.visited: set[bytes] = set()
        self.links: deque[tuple[bytes, bytes]] = deque()
        self._exclude = exclude
        self._seen: set[tuple[int, int]] = set()

    def visit(self, folder: bytes, root: bytes) -> None:
        """List a folder and those in it; linked ones are put off."""
        pending = [folder]
        while pending:
            folder = pending.pop()
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in self._seen:
                    continue
                with os.scandir(folder) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self.unlisted.append((folder, error.strerror or str(error)))
                continue
            self._seen.add((status.st_dev, status.st_ino))
            self.visited.add(folder)
            for entry in found:
                if entry.name.startswith(b".") or _excluded(entry.path, root, self._exclude):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_symlink() or _is_image(entry.name):
                    self._look_at(entry, root)

    def _look_at(self, entry: os.DirEntry[bytes], root: bytes) -> None:
        """A link, or a file with an image's ending; pipes, sockets and devices are passed over."""
        broken = False
        try:
            status = entry.stat()
        except OSError as error:
            broken = entry.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP)
            if not broken or not _is_image(entry.name):
                # What lies there or behind it may only be out of reach for now.
                self.unlisted.append((entry.path, "is a broken link" if broken else error.strerror or str(error)))
                return
            status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            self.links.append((entry.path, root))
        elif _is_image(entry.name) and (broken or stat.S_ISREG(status.st_mode)):
            times = (status.st_mtime_ns, status.st_ctime_ns)
            self.files[entry.path] = File(entry.path, status.st_size, *times, is_broken_link=broken)


def _is_image(name: bytes) -> bool:
    return os.path.splitext(name)[1].lower().decode("latin-1") in ENDINGS


def _excluded(path: bytes, root: bytes, exclude: tuple[str, ...]) -> bool:
    if not exclude:
        return False
    relative = os.fsdecode(os.path.relpath(path, root))
    name = os.path.basename(relative)
    return any(fnmatch(name, pattern) or fnmatch(relative, pattern.rstrip("/")) for pattern in exclude)
