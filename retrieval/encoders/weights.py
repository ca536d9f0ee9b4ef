"""What a model's weights are, independent of the file that holds them."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from indexes.errors import CrosslookError
from retrieval.location import cache_folder

VERSION = 1
SETTLED = 3_000_000_000  # ns; the coarsest file system, FAT, has steps of two seconds


def weights_checksum(model: Any) -> str:
    """sha256 over the names and values of all weights, independent of the file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def stamp_of(files: Sequence[Path]) -> str | None:
    """The path, identity, size and times of change of files with weights. None if there are none, if one is out of
    reach, or if one was changed so lately that another change might leave the same times."""
    stamps = []
    try:
        for file in files:
            status = os.stat(file)
            if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED:
                return None
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            stamps.append(f"{os.path.realpath(file)} {identity}")
    except OSError:
        return None
    return "\0".join(stamps) or None


def remembered_checksum(model: Any, stamp: str | None) -> str:
    """`weights_checksum` of a model, computed once for a stamp and kept in the user's cache folder.

    stamp: `stamp_of` the files that the model was loaded from, the same before and after loading. None computes."""
    record = None if stamp is None else _record_of(model, stamp)
    remembered = record and _read(record)
    if remembered:
        return remembered
    checksum = weights_checksum(model)
    if record is not None:
        _write(record, checksum)
    return checksum


def _record_of(model: Any, stamp: str) -> Path | None:
    """The file that remembers the checksum. Its name is a hash over all that the weights follow from: the files, the
    shapes that they are fitted to, and the libraries that load them. None without a home folder."""
    import open_clip
    import torch

    shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in sorted(model.state_dict().items())]
    content = "\0".join([str(VERSION), stamp, repr(shapes), torch.__version__, open_clip.__version__])
    try:
        return cache_folder() / "weights" / hashlib.sha256(os.fsencode(content)).hexdigest()
    except CrosslookError:
        return None


def _read(record: Path) -> str | None:
    """None if nothing is remembered, or the record is damaged."""
    try:
        checksum, seal = record.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return checksum if seal == _seal(record, checksum) else None


def _write(record: Path, checksum: str) -> None:
    """Puts the record in its place in one step. A cache that cannot be written is no error."""
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=record.name, dir=record.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{checksum} {_seal(record, checksum)}\n")
            os.replace(draft, record)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft)
            raise


def _seal(record: Path, checksum: str) -> str:
    """A checksum of the record's name and content, by which damage is noticed."""
    return hashlib.sha256(f"{record.name} {checksum}".encode()).hexdigest()
