"""Planning and reading: the hash by which the same content is known again."""

from __future__ import annotations

import hashlib


def new_hash() -> hashlib.blake2b:
    """BLAKE2b with 128 bits."""
    return hashlib.blake2b(digest_size=16)


def hash_of_file(path: bytes) -> bytes:
    """The hash of a file's content, 16 bytes. Raises `OSError`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, new_hash).digest()
