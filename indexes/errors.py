"""The errors that a user can mend."""

from __future__ import annotations

REPAIR = "`search index --repair FOLDER`"


class CrosslookError(Exception):
    """One line: the file or setting, the reason, the remedy. The command line prints it and exits with 2."""


class DamagedCollectionError(CrosslookError):
    """A file that says what a collection is does not say it; `--repair` makes it anew from the segments."""

    def __init__(self, file: object, reason: str) -> None:
        super().__init__(f"{file} is damaged: {reason}; {REPAIR} rebuilds it from the collection's segments")
        self.reason = f"{file} is damaged ({reason})"


class DamagedSegmentError(CrosslookError):
    """A segment does not hold what its manifest says; `--repair` takes it out of the collection. Not raised where it
    merely cannot be read now."""

    def __init__(self, segment: object, name: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"segment {segment} is damaged ({name}: {reason}): {REPAIR} sets it aside and embeds the images of all "
            "indexed folders again that are lost with it"
        )


def unreadable(error: OSError, path: object) -> Exception:
    """An intact file that cannot be read now must not be taken for a damaged one; one that is gone is the caller's."""
    if isinstance(error, FileNotFoundError):
        return error
    return CrosslookError(f"cannot read {error.filename or path}: {error.strerror}")
