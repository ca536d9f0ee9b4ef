"""What do the readers of formats return? Entries as in the source, not yet grouped, checked or selected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from retrieval.captions.caption_set import Member, Skipped


class Caption(NamedTuple):
    """where: its position in the source for messages, such as `line 12` or `annotations[3]`."""

    where: str
    text: str


@dataclass(frozen=True)
class Entry:
    """One entry about one image. where: its position in the source. image: the path as it is written there."""

    where: str
    image: str
    captions: tuple[Caption, ...]
    split: str | None = None


@dataclass(frozen=True)
class Recognised:
    """A source whose format was recognised. one_per_image: a second entry about the same image is a mistake; otherwise
    it holds more captions of it. images_dir: None for tars. members: for tars, image -> where its bytes lie; complete
    once `entries` is exhausted."""

    format: str
    entries: Iterator[Entry | Skipped]
    one_per_image: bool
    images_dir: Path | None
    members: dict[str, Member] = field(default_factory=dict)
