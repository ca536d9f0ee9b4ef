"""The lock that a writer holds, and the note about which process holds it."""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from indexes.errors import CrosslookError
from indexes.files import discard

LOCK = "writer.lock"
HOLDER = "writer.json"


class WriterLock:
    """Acquired on creation, held until `release`."""

    def __init__(self, folder: Path) -> None:
        """Raises `CrosslookError` that names the holder where another process holds it, `OSError` where the folder
        cannot be written to."""
        self._folder = folder
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            process = holder(folder)
            by = f" by {process}" if process else ""
            raise CrosslookError(f"{folder} is being written to{by}: wait until it has finished") from error
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
        try:
            (folder / HOLDER).write_text(json.dumps(note))
        except OSError:
            self._lock.release()
            raise

    def release(self) -> None:
        discard(self._folder / HOLDER)
        self._lock.release()


def holder(folder: Path) -> str | None:
    """The process that writes to a collection now, for people, or None. The note of a process that was
    killed does not count, unless it ran on another machine, where nobody can tell."""
    try:
        note = json.loads((folder / HOLDER).read_text())
        line, pid = f"process {note['pid']} on {note['host']} since {note['since']}", int(note["pid"])
        is_here = note["host"] == socket.gethostname()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if is_here and os.name != "nt":  # where os.kill would not ask
        try:
            os.kill(pid, 0)
        except PermissionError:
            return line
        except (OSError, OverflowError):
            return None
    return line
