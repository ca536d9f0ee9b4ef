"""Are the pictures still those that something was computed of? Their names, sizes and times cannot tell."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexes.files import replace_durably
from retrieval.captions import CaptionedImage, CaptionSet, content_digest, file_of, stamp
from retrieval.encoders.weights import SETTLED
from retrieval.training.data.photos import Captioned
from retrieval.training.data.writing import writing_to

READERS = 32  # threads, which wait for a disk or a network most of the time
REPORTED = 64  # images are read between two reports


def ignored(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Contents:
    """What was in the files of some images, in their order. digests: see `content_digest`. stamps: see `full_stamp`."""

    digests: list[str]
    stamps: list[str]

    @property
    def stored(self) -> dict[str, list[str]]:
        """As JSON can hold it; `contents_of` takes it."""
        return {"contents": self.digests, "stamps": self.stamps}


def contents_of(
    images: Sequence[Captioned], stored: Any = None, progress: Callable[[int, int], None] = ignored
) -> Contents:
    """Reads whole files, but none whose stamp is the one that is stored with its digest.

    stored: of the same images; anything else reads all. progress: receives how many of the images that have to be read
    are, and how many those are."""
    stamps = _stamps(images)
    digests = [
        digest if now and now == before else ""
        for now, (digest, before) in zip(stamps, _pairs(stored, len(images)), strict=True)
    ]
    unread = [row for row, digest in enumerate(digests) if not digest]
    if not unread:
        return Contents(digests, stamps)
    progress(0, len(unread))
    with ThreadPoolExecutor(READERS) as threads:
        read = threads.map(lambda row: content_digest(*images[row]), unread)
        for done, (row, digest) in enumerate(zip(unread, read, strict=True), start=1):
            digests[row] = digest
            if done % REPORTED == 0 or done == len(unread):
                progress(done, len(unread))
    after = _stamps([images[row] for row in unread])
    for row, later in zip(unread, after, strict=True):
        stamps[row] = later if later == stamps[row] else ""
    return Contents(digests, stamps)


def _pairs(stored: Any, count: int) -> list[tuple[Any, Any]]:
    """Digest and stamp of each image."""
    lists = [stored.get(name) for name in ("contents", "stamps")] if isinstance(stored, dict) else []
    if len(lists) == 2 and all(isinstance(part, list) and len(part) == count for part in lists):
        return list(zip(*lists, strict=True))
    return [("", "")] * count


def _stamps(images: Sequence[Captioned]) -> list[str]:
    with ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(lambda image: full_stamp(*image), images))


def full_stamp(captions: CaptionSet, image: CaptionedImage) -> str:
    """`stamp` with what nobody can restore: a file that was replaced or written to has another one, whatever its times
    were set to. Empty if the file is out of reach, or changed so lately that another change might leave the same
    times."""
    try:
        status = os.stat(file_of(captions, image))
    except (OSError, ValueError):
        return ""
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED:
        return ""
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return f"{stamp(captions, image)}\0{identity}"


def with_later_stamps(stored: dict[str, Any], now: Contents) -> dict[str, Any]:
    """What is stored, with the stamps of today for the files whose content is as it was: they need not be read again.
    stored: `same_contents` as now."""
    pairs = zip(stored["contents"], now.digests, now.stamps, strict=True)
    return stored | {"stamps": [current if old == new else "" for old, new, current in pairs]}


def same_contents(before: Any, now: Sequence[str]) -> bool:
    """Whether no picture is known to be another one. A picture that could not be read, before or now, may be the same.

    before: `Contents.digests`, as they were stored; anything else is not the same."""
    if not isinstance(before, list) or len(before) != len(now):
        return False
    return all(old == new or not old or not new for old, new in zip(before, now, strict=True))


def key_of_contents(contents: Sequence[str], captions: Sequence[int]) -> str:
    """A hash over the contents of all pictures, and the number of captions of each that is used."""
    return hashlib.sha256(json.dumps([list(contents), list(captions)]).encode()).hexdigest()[:16]


def begun_with(
    path: Path, images: Sequence[Captioned], resumes: bool, progress: Callable[[int, int], None] = ignored
) -> list[str]:
    """The contents that a run began with, as the file `path` remembers them, or those of now if they are others. So a
    run goes on if a picture could not be read for a while.

    resumes: whether the run has a checkpoint; if not, the file is written. progress: see `contents_of`. Raises
    `CrosslookError` if that fails."""
    before = _read(path) if resumes else {}
    now = contents_of(images, before, progress)
    if not resumes:
        with writing_to(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_durably(path, json.dumps(now.stored).encode())
        return now.digests
    if not same_contents(before.get("contents"), now.digests):
        return now.digests
    if (later := with_later_stamps(before, now)) != before:
        with suppress(OSError):
            replace_durably(path, json.dumps(later).encode())
    digests: list[str] = before["contents"]
    return digests


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}
