"""What libraries say by `warnings` and `logging`: one line each, above a progress bar, or nothing."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from cli.show.output import note
from cli.streams import debugging

VERBOSITIES = ("HF_HUB_VERBOSITY", "TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")
SILENT = ("PIL",)  # of an image, whose file it does not name


def quiet_libraries() -> None:
    """Warnings appear only where the user asks for them by `-W`, PYTHONWARNINGS or CROSSLOOK_DEBUG, log records from
    ERROR on: neither names the file that it is about, and what matters is told by the errors of this program."""
    if not sys.warnoptions and not debugging():
        warnings.simplefilter("ignore")
    warnings.showwarning = _tell_warning
    logging.raiseExceptions = False
    logging.lastResort = _Notes(logging.WARNING if debugging() else logging.ERROR)
    if not debugging():
        for name in VERBOSITIES:
            os.environ.setdefault(name, "error")


def _tell_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    note(f"{category.__name__} of {filename}:{lineno}: {message}")


class _Notes(logging.Handler):
    """For loggers without a handler of their own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not debugging() and record.name.partition(".")[0] in SILENT:
            return
        try:
            message = record.getMessage()
        except Exception:  # of the library's own making: its arguments do not fit
            message = str(record.msg)
        note(f"{record.name}: {message}")
