"""The worker processes of this process."""

from __future__ import annotations

import os
from pathlib import Path


def workers() -> set[int]:
    """The worker processes of this process that are alive."""
    pids = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"retrieval.indexing.worker" in (folder / "cmdline").read_bytes():
                pids.add(int(folder.name))
        except OSError:
            continue
    return pids
