"""Weights as a safetensors file, written atomically. A damaged file is told from one that cannot be read now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from indexes.files import put_durably
from retrieval.training.data.writing import writing_to


class DamagedTensors(Exception):
    """A file is not a safetensors file, or is truncated."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Replace the file `path` in one step, readable to all.

    Raises `CrosslookError` if it cannot be written, as on a full disk; then the old file is still in place."""
    draft = path.with_name(path.name + ".new")
    with writing_to(path.parent):
        try:
            save_file(dict(tensors), draft, metadata)
            draft.chmod(0o644)  # safetensors lets only the owner read it
            put_durably(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and its metadata. Raises `DamagedTensors`, and `OSError` if it cannot be read now."""
    with path.open("rb") as file:
        file.read(1)  # a file that cannot be read is not damaged: this raises the OSError
    try:
        with safe_open(path, "pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
        return load_file(path), metadata
    except SafetensorError as error:
        raise DamagedTensors(f"{path}: {error}") from error
