"""The entry point of `search`. It imports no module at the top: an interrupt during imports must end like any other."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line and exit with its status, after at most one line on stderr about what went wrong."""
    try:
        from cli.process.endings import run

        status = run(_run_command)
    except KeyboardInterrupt:
        status = _fail("interrupted", 130)
    except Exception as error:  # the installation itself is damaged
        status = _fail(f"search: cannot start, {type(error).__name__}: {error}; reinstall crosslook", 70)
    sys.exit(status)


def _run_command() -> object:
    from cli.commands import app

    return app(standalone_mode=False)


def _fail(line: str, status: int) -> int:
    with suppress(OSError, ValueError):
        os.write(2, " ".join(line.split()).encode("ascii", "backslashreplace") + b"\n")
    return status
