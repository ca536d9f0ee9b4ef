"""Messages of libraries, by `warnings` and `logging`: one line each, above a progress bar, or none."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from cli.process.streams import debugging
from cli.show.output import note

VERBOSITIES = ("HF_HUB_VERBOSITY", "TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")
SILENT = ("PIL",)  # its messages are about an image, but do not name the file


def quiet_libraries() -> None:
    """Show warnings only if the user asks for them, by `-W`, PYTHONWARNINGS or CROSSLOOK_DEBUG, and log records from
    ERROR up. Neither names the file that it is about; the errors of this program do."""
    if not sys.warnoptions and not debugging():
        warnings.simplefilter("ignore")
    warnings.showwarning = _note_warning
    logging.raiseExceptions = False
    logging.lastResort = _Notes(logging.WARNING if debugging() else logging.ERROR)
    if not debugging():
        for name in VERBOSITIES:
            os.environ.setdefault(name, "error")


def _note_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    note(f"{category.__name__} of {filename}:{lineno}: {message}")


class _Notes(logging.Handler):
    """The handler for loggers that have none."""

    def emit(self, record: logging.LogRecord) -> None:
        if not debugging() and record.name.partition(".")[0] in SILENT:
            return
        try:
            message = record.getMessage()
        except Exception:  # the library's arguments do not fit its message
            message = str(record.msg)
        note(f"{record.name}: {message}")
