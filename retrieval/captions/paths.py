"""Normalises the path of an image inside its folder, and refuses a path that leads out of it."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from indexes.errors import CrosslookError
from retrieval.captions.errors import error_in, quoted


def image_key(source: Path, image: str, where: str, folder: str = "the folder of images") -> str:
    """The normal form of a relative path: `a/b.jpg` for `./a//b.jpg`. Both slashes separate, on every system.

    Raises `CrosslookError` for a path that is absolute, leads out of its folder, or cannot be a file's name."""
    if not image.strip():
        raise error_in(source, "the name of the image is empty: write it, or remove the entry", where)
    parts = re.split(r"[/\\]", image)
    if not parts[0] or re.match(r"[A-Za-z]:[/\\]", image):
        reason = f"the image {quoted(image)} is an absolute path: write it relative to {folder}"
        raise error_in(source, reason, where)
    if ".." in parts:
        raise outside(source, image, where, folder)
    if "\0" in image or not _is_file_name(image):
        raise error_in(source, f"the image {quoted(image)} cannot be the name of a file: correct it", where)
    return str(PurePosixPath(image))


def outside(source: Path, image: str, where: str, folder: str) -> CrosslookError:
    reason = f"the image {quoted(image)} lies outside {folder}: move it inside, or remove the entry"
    return error_in(source, reason, where)


class Folder:
    """A folder that tells which paths are inside it after links are resolved. The path of a subfolder is resolved
    once."""

    def __init__(self, path: Path) -> None:
        self._root = os.path.realpath(path)
        self._resolved: dict[str, str] = {}

    def holds(self, key: str) -> bool:
        """Whether the path is inside. A file that does not exist counts by where it would be."""
        folder, _, name = key.rpartition("/")
        if folder not in self._resolved:
            self._resolved[folder] = os.path.realpath(os.path.join(self._root, folder))
        path = os.path.join(self._resolved[folder], name)
        if os.path.islink(path):
            path = os.path.realpath(path)
        return os.path.commonpath([self._root, path]) == self._root


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
