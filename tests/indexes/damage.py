"""Damage to do to a collection."""

from __future__ import annotations

from pathlib import Path

from indexes.commits import current_name


def flip(file: Path, offset: int = -20) -> None:
    """Flip a bit of one byte."""
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def lose_manifest(path: Path) -> None:
    """Remove the manifest in force."""
    name = current_name(path)
    assert name is not None
    (path / name).unlink()
