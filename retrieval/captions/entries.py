"""What the reader of a format hands on: entries as they stand in the source, not yet grouped, checked or selected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from retrieval.captions.caption_set import Member, Skipped


class Caption(NamedTuple):
    """where: its place in the source, for messages, as in `line 12` or `annotations[3]`."""

    where: str
    text: str


@dataclass(frozen=True)
class Entry:
    """One record about one image."""

    where: str
    image: str
    captions: tuple[Caption, ...]
    split: str | None = None


@dataclass(frozen=True)
class Records:
    """one_per_image: a second entry for the same image is a mistake, rather than one more caption of it."""

    format: str
    entries: Iterator[Entry | Skipped]
    one_per_image: bool
    images_dir: Path | None
    members: dict[str, Member] = field(default_factory=dict)
