"""What is a set of captioned images, independent of the format of its source?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

EMPTY_CAPTION = "caption without text"
UNLISTED_IMAGE = "captions of an image that is not there"
NO_CAPTIONS = "image without captions"
NO_SPLIT = "image without a split"
NOT_A_FILE = "link or special file inside a tar"
MISSING = "image is missing"
NOT_REGULAR = "image is a folder, a pipe or a device"
NAMES_SHOWN = 5


@dataclass(frozen=True)
class CaptionedImage:
    """image: path relative to the images folder, as the captions file names it. In a tar it is the member's name, and
    in a folder of tars the shard's and the member's (`shard-000.tar/0001.jpg`). captions: at least one; not empty,
    without white space around them. split: `train` for Karpathy's `restval`; None if the file has no splits."""

    image: str
    captions: tuple[str, ...]
    split: str | None


class Skipped(NamedTuple):
    """Something that was left out. what: its name. why: one of the constants of this module, or the system's message
    without the file's name, so that equal reasons can be counted."""

    what: str
    why: str


class Member(NamedTuple):
    """Where the bytes of an image lie inside a tar. offset, size: bytes."""

    shard: Path
    offset: int
    size: int


def left_out_lines(left_out: Sequence[Skipped]) -> list[str]:
    """One line per reason: how often it applies, and the first names."""
    names: dict[str, list[str]] = {}
    for item in left_out:
        names.setdefault(item.why, []).append(item.what)
    return [
        f"left out: {len(left):,} x {why}: {', '.join(left[:NAMES_SHOWN])}{', ...' if len(left) > NAMES_SHOWN else ''}"
        for why, left in names.items()
    ]


@dataclass(frozen=True)
class CaptionSet:
    """format: the recognised format, for people. images: in the order of the source; every image is listed once.
    skipped: everything in the source (in the split, where one was asked for) that is in none of the images. images_dir:
    the folder that `image` is relative to, None for tars. members: for tars, image -> where its bytes lie."""

    format: str
    source: Path
    images: tuple[CaptionedImage, ...]
    images_dir: Path | None
    skipped: tuple[Skipped, ...] = ()
    members: Mapping[str, Member] = field(default_factory=dict, repr=False)
