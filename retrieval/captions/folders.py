"""A folder of images with sidecars: .txt files of the same name that hold the captions, one per line."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from retrieval.captions.caption_set import NO_CAPTIONS, UNLISTED_IMAGE, Skipped
from retrieval.captions.entries import Caption, Entry
from retrieval.captions.errors import CannotRead, cannot_read, error_in, quoted
from retrieval.captions.text import decode_text, numbered_lines
from retrieval.images import ENDINGS

FORMAT = "folder of images with .txt captions"
LONGEST_SIDECAR = 1 << 20  # bytes


Pairs = dict[str, tuple[list[str], str | None]]


def pair_sidecars(source: Path, images_dir: Path) -> tuple[Pairs, list[Skipped]]:
    """Returns stem -> its images and its .txt file, as paths relative to their folder; and the subfolders that cannot
    be listed. Subfolders are included. Hidden files and links to folders are ignored."""
    pairs: Pairs = {}
    unlisted: dict[str, Skipped] = {}
    for name in _files_below(images_dir, unlisted):
        stem, ending = os.path.splitext(name)
        if ending.lower() in ENDINGS:
            pairs.setdefault(stem, ([], None))[0].append(name)
    for name in _files_below(source, unlisted):
        stem, ending = os.path.splitext(name)
        if ending.lower() == ".txt":
            pairs[stem] = (pairs.get(stem, ([], None))[0], name)
    return pairs, list(unlisted.values())


def folder_entries(source: Path, pairs: Pairs, unlisted: list[Skipped]) -> Iterator[Entry | Skipped]:
    yield from unlisted
    for images, sidecar in pairs.values():
        if not images:
            yield Skipped(str(sidecar), UNLISTED_IMAGE)
        elif sidecar is None:
            yield from (Skipped(image, NO_CAPTIONS) for image in images)
        elif len(images) > 1:
            both = " and ".join(quoted(image) for image in images[:2])
            raise error_in(source / sidecar, f"stands beside {both}: rename one of the images, or remove it")
        else:
            try:
                content = _read(source / sidecar)
            except CannotRead as error:
                yield Skipped(sidecar, f"captions: {error.reason}")
                continue
            yield Entry(sidecar, images[0], sidecar_captions(source / sidecar, content))


def sidecar_captions(source: Path, content: bytes, where: str = "") -> tuple[Caption, ...]:
    """One caption per line that is not blank."""
    if len(content) > LONGEST_SIDECAR:
        reason = "is larger than 1 MiB, too large for the captions of one image: remove or split it"
        raise error_in(source, reason, where)
    lines = numbered_lines(decode_text(source, content, where))
    return tuple(Caption(f"{where or source}, line {number}", line) for number, line in lines)


def _files_below(folder: Path, unlisted: dict[str, Skipped]) -> Iterator[str]:
    """Raises `CrosslookError` when the folder itself cannot be listed."""

    def leave_out(error: OSError) -> None:
        path = Path(error.filename)
        if path == folder:
            raise error_in(path, f"cannot be listed ({error.strerror}): make it readable") from error
        name = path.relative_to(folder).as_posix() + "/"
        unlisted[name] = Skipped(name, f"folder cannot be listed ({error.strerror})")

    for parent, folders, files in os.walk(folder, onerror=leave_out):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(parent).relative_to(folder)
        for name in sorted(files):
            if not name.startswith("."):
                yield (relative / name).as_posix()


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe may wait for ever
            raise CannotRead(path, "is a pipe or a device", "remove it")
        with path.open("rb") as file:
            return file.read(LONGEST_SIDECAR + 1)
    except (OSError, MemoryError) as error:
        raise cannot_read(path, error, "make it readable, or remove it") from error
