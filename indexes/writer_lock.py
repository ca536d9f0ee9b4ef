"""The lock that makes a writer the only one, and who holds it."""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from indexes.errors import CrosslookError

LOCK = "writer.lock"
HOLDER = "writer.json"


class WriterLock:
    """Held from making it to `release`."""

    def __init__(self, folder: Path) -> None:
        """Raises `CrosslookError` that names the holder where there is one, `OSError` where the folder cannot be
        written to."""
        self._folder = folder
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise CrosslookError(f"{folder} is being written to{holder(folder)}: wait until it has finished") from error
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
        try:
            (folder / HOLDER).write_text(json.dumps(note))
        except OSError:
            self._lock.release()
            raise

    def release(self) -> None:
        (self._folder / HOLDER).unlink(missing_ok=True)
        self._lock.release()


def holder(folder: Path) -> str:
    """Who is writing: " by process 12 on host since ..."; empty where nobody said so."""
    try:
        note = json.loads((folder / HOLDER).read_text())
        return f" by process {note['pid']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
