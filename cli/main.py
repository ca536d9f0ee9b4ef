"""The entry point of `search`, which imports nothing itself: an interrupt during imports is to end as any other."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line; it ends with an exit status and at most one line about what went wrong."""
    try:
        from cli.endings import run

        status = run()
    except KeyboardInterrupt:
        status = _ended("interrupted", 130)
    except Exception as error:  # the installation itself is damaged
        status = _ended(f"search: cannot start, {type(error).__name__}: {error}; reinstall crosslook", 70)
    sys.exit(status)


def _ended(line: str, status: int) -> int:
    with suppress(OSError, ValueError):
        os.write(2, " ".join(line.split()).encode("ascii", "backslashreplace") + b"\n")
    return status
