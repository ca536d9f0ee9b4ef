"""Makes files to list, and names what a listing holds."""

from __future__ import annotations

import os

from retrieval.indexing.exclusion import Rules
from retrieval.indexing.listing import list_images


def listing_of(folder, *excludes, include_all=False):
    return list_images([os.fsencode(folder)], Rules(excludes, include_all))


def names(folder, *excludes, include_all=False):
    listing = listing_of(folder, *excludes, include_all=include_all)
    return [os.path.relpath(os.fsdecode(file.path), folder) for file in listing.files]


def touch(folder, *relative):
    for name in relative:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def relative(paths, folder):
    return sorted(os.path.relpath(os.fsdecode(path), folder) for path in paths)
