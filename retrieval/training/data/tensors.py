"""Weights as a safetensors file, written atomically. A damaged file is told from one that cannot be read now."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from indexes.errors import CrosslookError
from indexes.files import put_durably

NO_ROOM = ("no space left", "disk full", "quota exceeded")


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


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a failure to write into `folder` into a `CrosslookError` of one line.

    The libraries for weights and graphs report a full disk by exception types of their own."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = error.errno if isinstance(error, OSError) else None
        is_full = code in (errno.ENOSPC, errno.EDQUOT) or any(sign in str(error).lower() for sign in NO_ROOM)
        reason = "the disk is full" if is_full else (isinstance(error, OSError) and error.strerror) or str(error)
        raise CrosslookError(
            f"cannot write to {folder}: {reason}; mend that and run the same command again, which goes on"
        ) from error
