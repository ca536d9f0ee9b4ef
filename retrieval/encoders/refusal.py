"""Remembers that a model cannot be exported, which takes minutes to find out. Errors that pass are not remembered."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from retrieval.encoders.openclip_onnx import REFUSED

AGAIN_AFTER = 7 * 24 * 3600  # seconds
PACKAGES = ("crosslook", "onnx", "onnxruntime", "open_clip_torch", "torch")
# Messages of libraries in other languages, whose exceptions have no class of their own.
PASSING = re.compile(
    r"os error \d+|no space left|disk (is )?full|quota exceeded|input/output error|too many open files"
    r"|bad[_ ]?alloc|out of memory|(failed|unable) to allocate|(cannot|could not) allocate|not enough memory",
    re.IGNORECASE,
)


class NotExportable(Exception):
    """The reason why a model needs torch."""


def is_passing(error: BaseException | None) -> bool:
    """Whether an error, or a cause of it, may be gone next time: a full disk, too little memory, a missing package."""
    while error is not None:
        if isinstance(error, OSError | MemoryError | ImportError) or PASSING.search(str(error)):
            return True
        error = error.__cause__
    return False


def permanent_error(action: Callable[[], None]) -> Exception | None:
    """The error by which an action fails for good, None if it succeeds. Raises errors that pass."""
    try:
        action()
    except Exception as error:  # the exporter, the quantiser and ONNX Runtime raise exceptions of many classes
        if is_passing(error):
            raise
        return error
    return None


def refuse(folder: Path, error: Exception) -> None:
    """Write the reason why a model cannot be exported into the folder of its export."""
    content = {"reason": f"{type(error).__name__}: {error}", "versions": _versions()}
    (folder / REFUSED).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_refused(folder: Path) -> bool:
    """Whether the model was refused, within a week and with the same versions of the packages. It is tried again after
    a week because `is_passing` may not recognise every error that passes."""
    try:
        content = json.loads((folder / REFUSED).read_text(encoding="utf-8"))
        age = abs(time.time() - (folder / REFUSED).stat().st_mtime)
        return bool(content["versions"] == _versions()) and age < AGAIN_AFTER
    except (OSError, ValueError, KeyError, TypeError):  # it does not exist, or an older version wrote it
        return False


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = ""
    return versions
