"""What is said of a folder that cannot be written to."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from indexes.errors import CrosslookError

NO_ROOM = ("no space left", "disk full", "quota exceeded")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a failure to write into `folder` into a `CrosslookError` of one line.

    The libraries for weights and graphs report a full disk by exception types of their own."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = error.errno if isinstance(error, OSError) else None
        is_full = code in (errno.ENOSPC, errno.EDQUOT) or any(sign in str(error).lower() for sign in NO_ROOM)
        reason = "the disk is full" if is_full else (isinstance(error, OSError) and error.strerror) or str(error)
        raise CrosslookError(
            f"cannot write to {folder}: {reason}; mend that and run the same command again, which goes on"
        ) from error
