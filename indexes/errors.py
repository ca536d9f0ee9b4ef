"""The errors that a user can mend."""

from __future__ import annotations

from pathlib import Path

REPAIR = "`search index --repair FOLDER`"


class CrosslookError(Exception):
    """One line: the file or setting, the reason, the remedy. The command line prints it and exits with 2."""


class DamagedCollectionError(CrosslookError):
    """A manifest or CURRENT is damaged; `--repair` makes it anew from the segments."""

    def __init__(self, file: object, reason: str) -> None:
        super().__init__(f"{file} is damaged: {reason}; {REPAIR} rebuilds it from the collection's segments")
        self.reason = f"{file} is damaged ({reason})"


class DamagedSegmentError(CrosslookError):
    """A segment does not hold what its manifest says; `--repair` takes it out of the collection. A segment that merely
    cannot be read now raises a plain `CrosslookError`."""

    def __init__(self, segment: object, name: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"segment {segment} is damaged ({name}: {reason}): {REPAIR} sets it aside and embeds the images of all "
            "indexed folders again that are lost with it"
        )


def unreadable(error: OSError, path: object) -> Exception:
    """What to raise for a file that cannot be read now, which must not be taken for damage. A file that is gone stays a
    `FileNotFoundError`, for the caller to judge."""
    if isinstance(error, FileNotFoundError):
        return error
    return CrosslookError(f"cannot read {error.filename or path}: {error.strerror}")


def closed_collection() -> CrosslookError:
    """What every method of a closed collection raises, also one that was running when it was closed."""
    return CrosslookError("this collection is closed: open it again")


def missing_file(folder: Path, error: FileNotFoundError) -> DamagedSegmentError:
    """What to raise where a commit names a file that is gone."""
    path = Path(error.filename or folder)
    return DamagedSegmentError(path.parent, path.name, "it is missing")
