"""What a set of captioned images is, however its file was written."""

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
NAMED = 5


@dataclass(frozen=True)
class CaptionedImage:
    """image: path relative to the images folder, as the captions file names it; of a tar, the member's name, behind
    the shard's (`shard-000.tar/0001.jpg`) where there is a folder of them. captions: at least one, none empty, without
    white space around them. split: `train` for Karpathy's `restval`; None where the file has none."""

    image: str
    captions: tuple[str, ...]
    split: str | None


class Skipped(NamedTuple):
    """What was left out, by name, and why: one of the constants of this file, or what the system says of a file,
    without its name, so that it can be counted."""

    what: str
    why: str


class Member(NamedTuple):
    """Where the bytes of an image lie inside a tar."""

    shard: Path
    offset: int
    size: int


def left_out_lines(left_out: Sequence[Skipped]) -> list[str]:
    """A line for each reason: of how many it is true, and the first names."""
    names: dict[str, list[str]] = {}
    for item in left_out:
        names.setdefault(item.why, []).append(item.what)
    return [
        f"left out: {len(some):,} x {why}: {', '.join(some[:NAMED])}{', ...' if len(some) > NAMED else ''}"
        for why, some in names.items()
    ]


@dataclass(frozen=True)
class CaptionSet:
    """format: how the source was recognised, for people. images: in the order of the source, each image once.
    skipped: everything of the source (of the split, where one was asked for) that is in no image.
    images_dir: the folder that `image` is relative to, None for tars. members: for tars, where each image lies."""

    format: str
    source: Path
    images: tuple[CaptionedImage, ...]
    images_dir: Path | None
    skipped: tuple[Skipped, ...] = ()
    members: Mapping[str, Member] = field(default_factory=dict, repr=False)
