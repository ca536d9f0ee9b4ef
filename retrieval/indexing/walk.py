"""Listing: the walk through folders, and what it meets."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from retrieval.images import ENDINGS, RECOGNISED
from retrieval.indexing import devices
from retrieval.indexing.exclusion import Exclusion, Ignores, Rules
from retrieval.indexing.files import File, ending_of, is_image
from retrieval.indexing.patterns import IGNORE_FILE
from retrieval.indexing.rubbish import is_in_library
from retrieval.progress import Interrupted

NO_MEDIA = b".nomedia"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder to visit. root: the root that it is in. device: of the parent folder. ignores: the patterns of the
    folders around it. in_library: see `is_in_library`."""

    path: bytes
    root: bytes
    device: int | None
    ignores: Ignores = ()
    in_library: bool = False


def _device(folder: bytes) -> int | None:
    try:
        return os.stat(folder).st_dev
    except OSError:
        return None


class Walk:
    """The state of a walk; the fields are those of `Listing`. links: linked folders still to visit."""

    def __init__(self, roots: Sequence[bytes], rules: Rules, should_stop: Callable[[], bool]) -> None:
        self.files: dict[bytes, File] = {}
        self.unlisted: list[tuple[bytes, str]] = []
        self.visited: set[bytes] = set()
        self.left_out: set[bytes] = set()
        self.alone = set(roots)
        self.occupied: set[bytes] = set()
        self.mounts: set[bytes] = set()
        self.devices: dict[bytes, str] = {}
        self.links: deque[Folder] = deque()
        self.passed_over: dict[bytes, Counter[str]] = defaultdict(Counter)
        self.exclusion = Exclusion(rules)
        self._should_stop = should_stop
        self._seen: set[object] = set()

    def visit_root(self, root: bytes) -> None:
        """Visits a root. Ignore files of the folders around it count, so that the same is left out as when one of those
        is the root."""
        try:
            ignores = self.exclusion.ignores_around(root)
        except OSError as error:
            self.unlisted.append((root, error.strerror or str(error)))
            return
        device = _device(os.path.dirname(root))
        self.visit(Folder(root, root, device, ignores, is_in_library(os.path.basename(root))))

    def visit(self, folder: Folder) -> None:
        """Lists a folder and its subfolders. Linked folders are visited later: see `links`."""
        pending = [folder]
        while pending:
            pending += self._visit_one(pending.pop())

    def _visit_one(self, folder: Folder) -> list[Folder]:
        """Lists one folder. Returns its subfolders that are to be visited."""
        if folder.path != folder.root:
            self.alone.discard(folder.path)
        try:
            status = os.stat(folder.path)
            same = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder.path)
            if same in self._seen:
                self.left_out.add(folder.path)
                return []
            entries = self._entries(folder.path)
            names = {entry.name for entry in entries}
            ignores = folder.ignores
            if IGNORE_FILE in names:
                ignores = self.exclusion.ignores_in(folder.path, ignores)
        except OSError as error:
            self.unlisted.append((folder.path, error.strerror or str(error)))
            return []
        self._seen.add(same)
        if NO_MEDIA in names and not self.exclusion.include_all:
            self.left_out.add(folder.path)
            return []
        self.visited.add(folder.path)
        if folder.device not in (None, status.st_dev):
            self.mounts.add(folder.path)
        if folder.path == folder.root or folder.path in self.mounts:
            self.devices[folder.path] = devices.identity(folder.path)
        here = Folder(folder.path, folder.root, status.st_dev, ignores, folder.in_library)
        return self._look_through(here, entries, names)

    def _entries(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        entries = []
        with os.scandir(folder) as scanned:
            for entry in scanned:
                self._check()
                entries.append(entry)
        return sorted(entries, key=lambda entry: entry.name)

    def _look_through(self, folder: Folder, entries: Sequence[os.DirEntry[bytes]], names: Set[bytes]) -> list[Folder]:
        inner: list[Folder] = []
        for entry in entries:
            self._check()
            ending = ending_of(entry.name)
            try:
                is_folder, is_link = entry.is_dir(follow_symlinks=False), entry.is_symlink()
            except OSError as error:
                self.unlisted.append((entry.path, error.strerror or str(error)))
                continue
            if not (is_folder or is_link or ending in ENDINGS or ending in RECOGNISED):
                if self.exclusion.unmatched:
                    self._is_excluded(entry.path, folder, False)
                continue
            excluded = self._is_excluded(entry.path, folder, is_folder)
            if entry.name.startswith(b"."):
                continue
            if is_folder and not excluded:
                excluded = self.exclusion.is_rubbish(entry.path, names, folder.in_library)
            if excluded and (ending in ENDINGS or ending in RECOGNISED) and not is_folder:
                self.occupied.add(folder.path)
            elif excluded:
                self.left_out.add(entry.path)
            elif is_folder:
                inner.append(self._inner(entry, folder))
            elif is_link or ending in ENDINGS:
                self._look_at(entry, folder)
            elif entry.is_file(follow_symlinks=False):
                self.passed_over[folder.root][ending] += 1
                self.occupied.add(folder.path)
        return inner

    def _is_excluded(self, path: bytes, folder: Folder, is_folder: bool) -> bool:
        return self.exclusion.is_excluded(path, folder.root, folder.ignores, is_folder)

    def _inner(self, entry: os.DirEntry[bytes], folder: Folder) -> Folder:
        in_library = is_in_library(entry.name, folder.in_library)
        return Folder(entry.path, folder.root, folder.device, folder.ignores, in_library)

    def _look_at(self, entry: os.DirEntry[bytes], folder: Folder) -> None:
        """Takes in a link, or a file with an image's ending; pipes, sockets and devices are skipped."""
        try:
            status, broken = status_of(entry)
        except OSError as error:  # the entry, or the link's target, may only be out of reach for now
            self.unlisted.append((entry.path, error.strerror or str(error)))
            return
        if stat.S_ISDIR(status.st_mode):
            is_rubbish = self.exclusion.is_rubbish(entry.path, frozenset(), folder.in_library)
            if is_rubbish or self._is_excluded(entry.path, folder, True):
                self.left_out.add(entry.path)
            else:
                self.links.append(self._inner(entry, folder))
        elif is_image(entry.name) and (broken or stat.S_ISREG(status.st_mode)):
            times = (status.st_mtime_ns, status.st_ctime_ns)
            self.files[entry.path] = File(entry.path, status.st_size, *times, is_broken_link=broken)

    def _check(self) -> None:
        if self._should_stop():
            raise Interrupted


def status_of(entry: os.DirEntry[bytes]) -> tuple[os.stat_result, bool]:
    """The status of an entry, through links, and whether it is a broken link with an image's ending. The status is then
    the link's own. Raises `OSError` if there is none."""
    try:
        return entry.stat(), False
    except OSError as error:
        if not entry.is_symlink():
            if error.errno != errno.ENOENT:
                raise
            raise OSError(error.errno, "has vanished since its folder was listed") from error
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        if not is_image(entry.name):
            raise OSError(error.errno, "is a broken link") from error
    return entry.stat(follow_symlinks=False), True
