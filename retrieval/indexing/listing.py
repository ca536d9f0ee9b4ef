"""Find the image files below some folders."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from retrieval.images import ENDINGS, RECOGNISED
from retrieval.indexing import devices
from retrieval.indexing.exclusion import NO_RULES, Exclusion, Ignores, Rules
from retrieval.indexing.patterns import IGNORE_FILE
from retrieval.indexing.rubbish import is_in_library
from retrieval.progress import Interrupted

NO_MEDIA = b".nomedia"
SMALLEST, LARGEST = -(2**63), 2**63 - 1  # that a column of a collection holds


@dataclass(frozen=True, slots=True)
class File:
    """An image file as the file system describes it. path: absolute. size: bytes. times: nanoseconds. is_broken_link:
    it points to nothing, at the moment at least. Numbers beyond 64 bits become the nearest that a collection holds, so
    that a photo of the year 2400 costs nobody anything."""

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    is_broken_link: bool = False

    def __post_init__(self) -> None:
        numbers = (self.size, self.mtime_ns, self.ctime_ns)
        if min(numbers) < SMALLEST or max(numbers) > LARGEST:
            for name, number in zip(("size", "mtime_ns", "ctime_ns"), numbers, strict=True):
                object.__setattr__(self, name, min(max(number, SMALLEST), LARGEST))


@dataclass(frozen=True)
class Listing:
    """The image files below some folders, sorted by path; and what could not be looked at, with reasons.

    visited: the folders that were looked at. left_out: those that were not, because a rule says so, or because they are
    the same as another. alone: roots to which the walk through no other root comes. occupied: folders in which a rule
    leaves images out, or which hold pictures that are not read. mounts: visited folders on another device than the
    folder that they, or the links to them, lie in. devices: of visited roots and mounts, the identity of their file
    system, empty where nothing tells. passed_over: of each root, how many pictures are of formats that are
    not read, by ending in lower case. unmatched: excludes that matched nothing. notes: lines for people."""

    files: tuple[File, ...]
    unlisted: tuple[tuple[bytes, str], ...]
    visited: frozenset[bytes] = frozenset()
    left_out: frozenset[bytes] = frozenset()
    alone: frozenset[bytes] = frozenset()
    occupied: frozenset[bytes] = frozenset()
    mounts: frozenset[bytes] = frozenset()
    devices: Mapping[bytes, str] = field(default_factory=dict)
    passed_over: Mapping[bytes, Mapping[str, int]] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def list_images(
    folders: Sequence[bytes], rules: Rules = NO_RULES, should_stop: Callable[[], bool] = lambda: False
) -> Listing:
    """All image files below the folders, by their endings. Hidden files and folders are skipped, symbolic links
    followed, no folder visited twice. Names decide nothing of the folders that are asked for.

    Raises `ValueError` with an exclude that is no gitignore pattern; `Interrupted` soon after `should_stop` says so."""
    walk = _Walk(folders, rules, should_stop)
    for root in folders:
        walk.visit_root(root)
    while walk.links:  # after all real folders, so that a link takes nothing over from what it points to
        walk.visit(walk.links.popleft())
    return Listing(
        tuple(walk.files[path] for path in sorted(walk.files)),
        tuple(walk.unlisted),
        frozenset(walk.visited),
        frozenset(walk.left_out - walk.visited),
        frozenset(walk.alone),
        frozenset(walk.occupied),
        frozenset(walk.mounts),
        dict(walk.devices),
        dict(walk.passed_over),
        walk.exclusion.unmatched,
        tuple(walk.exclusion.notes),
    )


def totals(passed_over: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts by ending of several roots together, the most frequent first."""
    counts: Counter[str] = Counter()
    for some in passed_over:
        counts.update(some)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def is_image(name: bytes) -> bool:
    """By its ending."""
    return _ending(name) in ENDINGS


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder to visit. device: of the folder around it. ignores: of the folders around it. in_library: as `rubbish`
    says."""

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


class _Walk:
    """What was met so far."""

    def __init__(self, roots: Sequence[bytes], rules: Rules, should_stop: Callable[[], bool]) -> None:
        self.files: dict[bytes, File] = {}
        self.unlisted: list[tuple[bytes, str]] = []
        self.visited: set[bytes] = set()
        self.left_out: set[bytes] = set()
        self.alone = set(roots)
        self.occupied: set[bytes] = set()
        self.mounts: set[bytes] = set()
        self.devices: dict[bytes, str] = {}
        self.links: deque[_Place] = deque()
        self.passed_over: dict[bytes, Counter[str]] = defaultdict(Counter)
        self.exclusion = Exclusion(rules)
        self._should_stop = should_stop
        self._seen: set[object] = set()

    def visit_root(self, root: bytes) -> None:
        """The same is left out of a folder whether it or one around it is asked for."""
        try:
            ignores = self.exclusion.ignores_around(root)
        except OSError as error:
            self.unlisted.append((root, error.strerror or str(error)))
            return
        device = _device(os.path.dirname(root))
        self.visit(_Place(root, root, device, ignores, is_in_library(os.path.basename(root))))

    def visit(self, place: _Place) -> None:
        """List a folder and those in it; linked ones are put off."""
        pending = [place]
        while pending:
            pending += self._visit_one(pending.pop())

    def _visit_one(self, place: _Place) -> list[_Place]:
        """Returns the folders in it that are to be visited."""
        if place.path != place.root:
            self.alone.discard(place.path)
        try:
            status = os.stat(place.path)
            same = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(place.path)
            if same in self._seen:
                self.left_out.add(place.path)
                return []
            entries = self._entries(place.path)
            names = {entry.name for entry in entries}
            ignores = place.ignores
            if IGNORE_FILE in names:
                ignores = self.exclusion.ignores_in(place.path, ignores)
        except OSError as error:
            self.unlisted.append((place.path, error.strerror or str(error)))
            return []
        self._seen.add(same)
        if NO_MEDIA in names and not self.exclusion.include_all:
            self.left_out.add(place.path)
            return []
        self.visited.add(place.path)
        if place.device not in (None, status.st_dev):
            self.mounts.add(place.path)
        if place.path == place.root or place.path in self.mounts:
            self.devices[place.path] = devices.identity(place.path)
        here = _Place(place.path, place.root, status.st_dev, ignores, place.in_library)
        return self._look_through(here, entries, names)

    def _entries(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        entries = []
        with os.scandir(folder) as scanned:
            for entry in scanned:
                self._check()
                entries.append(entry)
        return sorted(entries, key=lambda entry: entry.name)

    def _look_through(self, place: _Place, entries: Sequence[os.DirEntry[bytes]], names: Set[bytes]) -> list[_Place]:
        inner: list[_Place] = []
        for entry in entries:
            self._check()
            ending = _ending(entry.name)
            try:
                is_folder, is_link = entry.is_dir(follow_symlinks=False), entry.is_symlink()
            except OSError as error:
                self.unlisted.append((entry.path, error.strerror or str(error)))
                continue
            if not (is_folder or is_link or ending in ENDINGS or ending in RECOGNISED):
                if self.exclusion.unmatched:
                    self._is_excluded(entry.path, place, False)
                continue
            excluded = self._is_excluded(entry.path, place, is_folder)
            if entry.name.startswith(b"."):
                continue
            if is_folder and not excluded:
                excluded = self.exclusion.is_rubbish(entry.path, names, place.in_library)
            if excluded and (ending in ENDINGS or ending in RECOGNISED) and not is_folder:
                self.occupied.add(place.path)
            elif excluded:
                self.left_out.add(entry.path)
            elif is_folder:
                inner.append(self._inner(entry, place))
            elif is_link or ending in ENDINGS:
                self._look_at(entry, place)
            elif entry.is_file(follow_symlinks=False):
                self.passed_over[place.root][ending] += 1
                self.occupied.add(place.path)
        return inner

    def _is_excluded(self, path: bytes, place: _Place, is_folder: bool) -> bool:
        return self.exclusion.is_excluded(path, place.root, place.ignores, is_folder)

    def _inner(self, entry: os.DirEntry[bytes], place: _Place) -> _Place:
        in_library = is_in_library(entry.name, place.in_library)
        return _Place(entry.path, place.root, place.device, place.ignores, in_library)

    def _look_at(self, entry: os.DirEntry[bytes], place: _Place) -> None:
        """A link, or a file with an image's ending; pipes, sockets and devices are passed over."""
        try:
            status, broken = _status(entry)
        except OSError as error:  # what lies there or behind it may only be out of reach for now
            self.unlisted.append((entry.path, error.strerror or str(error)))
            return
        if stat.S_ISDIR(status.st_mode):
            is_rubbish = self.exclusion.is_rubbish(entry.path, frozenset(), place.in_library)
            if is_rubbish or self._is_excluded(entry.path, place, True):
                self.left_out.add(entry.path)
            else:
                self.links.append(self._inner(entry, place))
        elif is_image(entry.name) and (broken or stat.S_ISREG(status.st_mode)):
            times = (status.st_mtime_ns, status.st_ctime_ns)
            self.files[entry.path] = File(entry.path, status.st_size, *times, is_broken_link=broken)

    def _check(self) -> None:
        if self._should_stop():
            raise Interrupted


def _status(entry: os.DirEntry[bytes]) -> tuple[os.stat_result, bool]:
    """What lies there, and whether that is a broken link with an image's ending, which is then what is described."""
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


def _ending(name: bytes) -> str:
    return os.path.splitext(name)[1].lower().decode("latin-1")
