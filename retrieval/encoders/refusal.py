"""That a model cannot be exported is remembered, since finding out takes minutes; what passes is not."""

from __future__ import annotations

import json
import re
import time
from importlib import metadata
from pathlib import Path

from retrieval.encoders.openclip_onnx import REFUSED

AGAIN_AFTER = 7 * 24 * 3600  # seconds
PACKAGES = ("crosslook", "onnx", "onnxruntime", "open_clip_torch", "torch")
# What libraries in other languages say in exceptions of their own.
PASSING = re.compile(
    r"os error \d+|no space left|disk (is )?full|quota exceeded|input/output error|too many open files"
    r"|bad[_ ]?alloc|out of memory|(failed|unable) to allocate|(cannot|could not) allocate|not enough memory",
    re.IGNORECASE,
)


class NotExportable(Exception):
    """Why a model has to stay on torch."""


def is_passing(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says something about this moment: a disk, memory, a package."""
    while error is not None:
        if isinstance(error, OSError | MemoryError | ImportError) or PASSING.search(str(error)):
            return True
        error = error.__cause__
    return False


def refuse(folder: Path, error: Exception) -> None:
    """Remember in the folder of an export why there is none."""
    content = {"reason": f"{type(error).__name__}: {error}", "versions": _versions()}
    (folder / REFUSED).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_refused(folder: Path) -> bool:
    """Whether that holds still. It is tried again with another version of one of the packages, and after a week: the
    error may have been one that passes, without saying so."""
    try:
        content = json.loads((folder / REFUSED).read_text(encoding="utf-8"))
        age = abs(time.time() - (folder / REFUSED).stat().st_mtime)
        return bool(content["versions"] == _versions()) and age < AGAIN_AFTER
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is of an older version
        return False


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = ""
    return versions
