"""The image files of a caption set: the bytes of one, what identifies it, and which ones are missing."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from retrieval.captions.caption_set import MISSING, NOT_REGULAR, CaptionedImage, CaptionSet, Skipped
from retrieval.captions.errors import CannotRead, cannot_read
from retrieval.captions.shards import read_member

MAX_BYTES = 500_000_000  # no picture within the limit of pixels is as large
BLOCK = 1 << 20  # bytes of a picture that its digest reads at once
REMEDY = "put it there, or name another folder of images"


def read_image_bytes(captions: CaptionSet, image: CaptionedImage) -> bytes:
    """The content of the file, from the images folder or from inside its tar. Safe to call from several threads.

    Raises `CannotRead`, a `CrosslookError`, when it cannot be read or is too large for an image."""
    if captions.images_dir is None:
        member = captions.members[image.image]
        _check_size(captions, image, member.size)
        return read_member(member)
    path = captions.images_dir / image.image
    try:
        with path.open("rb") as file:
            _check_size(captions, image, os.fstat(file.fileno()).st_size)
            return file.read()
    except (OSError, MemoryError) as error:
        raise cannot_read(path, error, REMEDY) from error


def _check_size(captions: CaptionSet, image: CaptionedImage, size: int) -> None:
    if size > MAX_BYTES:
        path = (captions.images_dir or captions.source) / image.image
        raise CannotRead(
            path, f"is larger than {MAX_BYTES // 1_000_000} MB", "remove it, or leave it out of the captions"
        )


def stamp(captions: CaptionSet, image: CaptionedImage) -> str:
    """Where the picture is: the absolute path of its file, its size and its time of change. A file of the same name in
    another folder has another stamp. A file that was replaced may have the same one, since copying with its times
    restores them: `content_digest` tells the two apart."""
    if captions.images_dir is None:
        member = captions.members[image.image]
        return f"{_file_stamp(os.path.abspath(member.shard))}\0{member.offset}\0{member.size}"
    return _file_stamp(os.path.abspath(captions.images_dir / image.image))


def _file_stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{path}\0{error.errno}"
    return f"{path}\0{status.st_size}\0{status.st_mtime_ns}"


def file_of(captions: CaptionSet, image: CaptionedImage) -> Path:
    """The file that holds the picture: its own, or a tar."""
    if captions.images_dir is None:
        return captions.members[image.image].shard
    return captions.images_dir / image.image


def content_digest(captions: CaptionSet, image: CaptionedImage) -> str:
    """Identifies the picture's content, wherever its file is: a hexadecimal hash of all its bytes, empty if it cannot
    be read now."""
    try:
        if captions.images_dir is None:
            member = captions.members[image.image]
            with member.shard.open("rb") as file:
                return _digest(file, member.offset, member.size)
        with (captions.images_dir / image.image).open("rb") as file:
            return _digest(file, 0, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError):
        return ""


def _digest(file: BinaryIO, offset: int, size: int) -> str:
    """Of the `size` bytes from `offset` on."""
    digest = hashlib.sha256(str(size).encode())
    file.seek(offset)
    left = size
    while left and (block := file.read(min(left, BLOCK))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()[:16]


def absent_images(captions: CaptionSet) -> tuple[Skipped, ...]:
    """The images without a regular file in the images folder, in the order of the set, and why. In a tar, all images
    are present. Nothing is opened: opening a pipe or a device may wait for ever."""
    if captions.images_dir is None:
        return ()
    folder = str(captions.images_dir)
    reasons = ((image.image, _absence(os.path.join(folder, image.image))) for image in captions.images)
    return tuple(Skipped(name, reason) for name, reason in reasons if reason is not None)


def _absence(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except (OSError, ValueError) as error:
        return f"image cannot be looked at ({getattr(error, 'strerror', None) or error})"
    return None if stat.S_ISREG(mode) else NOT_REGULAR


def missing_images(captions: CaptionSet) -> tuple[str, ...]:
    """The names of `absent_images`."""
    return tuple(item.what for item in absent_images(captions))
