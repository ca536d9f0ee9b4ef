"""Listing: the image files in some folders, and the paths that could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from retrieval.indexing.exclusion import NO_RULES, Rules
from retrieval.indexing.files import File
from retrieval.indexing.walk import Walk


@dataclass(frozen=True)
class Listing:
    """The image files in some folders (the roots) and their subfolders.

    - files: sorted by path.
    - unlisted: paths that could not be read, with the reasons.
    - visited: folders that were looked at.
    - left_out: folders that a rule leaves out, or that are the same as another.
    - alone: roots that the walk through no other root reaches.
    - occupied: folders in which a rule leaves out images, or which hold pictures that are not read.
    - mounts: visited folders on another device than their parent folder, or than that of the link to them.
    - devices: the identity of the file system of every visited root and mount; empty where nothing tells it.
    - passed_over: of every root, how many pictures have a format that is not read, by ending.
    - unmatched: exclude patterns that matched nothing.
    - notes: lines for people."""

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
    """Lists all image files in the folders and their subfolders, by the files' endings.

    Hidden files and folders are skipped. Symbolic links are followed, and no folder is visited twice. The names of
    `folders` themselves are not looked at: a hidden one is listed.

    Raises `ValueError` with an exclude that is no gitignore pattern; `Interrupted` soon after `should_stop` says so."""
    walk = Walk(folders, rules, should_stop)
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
    """The counts by ending of several roots added up, the most frequent ending first."""
    counts: Counter[str] = Counter()
    for counts_of_root in passed_over:
        counts.update(counts_of_root)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
