"""A folder of images, each with a .txt file of the same name that holds its captions, one a line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from retrieval.captions.faults import fault, quoted
from retrieval.captions.records import Caption, Entry
from retrieval.captions.sets import NO_CAPTIONS, UNLISTED_IMAGE, Skipped
from retrieval.captions.text import decode_text, numbered_lines
from retrieval.images import ENDINGS

FORMAT = "folder of images with .txt captions"
LONGEST_SIDECAR = 1 << 20


def pair_sidecars(source: Path, images_dir: Path) -> dict[str, tuple[list[str], str | None]]:
    """Stem -> its images and its .txt file, all as paths relative to their folder, subfolders included. Hidden files
    and links to folders are left alone."""
    pairs: dict[str, tuple[list[str], str | None]] = {}
    for name in _files_below(images_dir):
        stem, ending = os.path.splitext(name)
        if ending.lower() in ENDINGS:
            pairs.setdefault(stem, ([], None))[0].append(name)
    for name in _files_below(source):
        stem, ending = os.path.splitext(name)
        if ending.lower() == ".txt":
            pairs[stem] = (pairs.get(stem, ([], None))[0], name)
    return pairs


def folder_entries(source: Path, pairs: dict[str, tuple[list[str], str | None]]) -> Iterator[Entry | Skipped]:
    for images, sidecar in pairs.values():
        if not images:
            yield Skipped(str(sidecar), UNLISTED_IMAGE)
        elif sidecar is None:
            yield from (Skipped(image, NO_CAPTIONS) for image in images)
        elif len(images) > 1:
            both = " and ".join(quoted(image) for image in images[:2])
            raise fault(source / sidecar, f"stands beside {both}: rename one of the images, or remove it")
        else:
            yield Entry(sidecar, images[0], sidecar_captions(source / sidecar, _read(source / sidecar)))


def sidecar_captions(source: Path, content: bytes, where: str = "") -> tuple[Caption, ...]:
    """One caption a line; blank lines are none."""
    if len(content) > LONGEST_SIDECAR:
        raise fault(source, "is larger than 1 MiB, too large for the captions of one image: remove or split it", where)
    lines = numbered_lines(decode_text(source, content, where))
    return tuple(Caption(f"{where or source}, line {number}", line) for number, line in lines)


def _files_below(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(place).relative_to(folder)
        for name in sorted(files):
            if not name.startswith("."):
                yield (relative / name).as_posix()


def _refuse(error: OSError) -> None:
    raise fault(Path(error.filename), f"cannot be listed ({error.strerror}): make it readable") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_SIDECAR + 1)
    except OSError as error:
        raise fault(path, f"cannot be read ({error.strerror}): make it readable, or remove it") from error
