"""Tells a collection that another process is making, without a commit yet, from an empty one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes.errors import CrosslookError


class BeingIndexedError(CrosslookError):
    """Nothing is committed yet, but a writer is at work."""


@contextmanager
def reported_if_being_indexed(path: Path) -> Iterator[None]:
    """Turn an error of opening the collection into `BeingIndexedError` if that is its reason."""
    try:
        yield
    except CrosslookError as error:
        line = being_indexed(path)
        if line is None:
            raise
        raise BeingIndexedError(line) from error


def being_indexed(path: Path) -> str | None:
    """One line about the process that is making a collection. None if there is none, or if images are committed."""
    from indexes.collection import Collection
    from indexes.writer_lock import holder

    process = holder(path)
    if process is None:
        return None
    try:
        if len(Collection.open(path)):
            return None
    except CrosslookError:
        from indexes.commits import find_commit

        try:
            if find_commit(path) is not None:
                return None
        except CrosslookError:
            return None  # it is damaged, which is another matter
    return f"{path} is being indexed by {process}; no images are committed yet"
