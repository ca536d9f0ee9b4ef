"""The ANN indexes that this version can open, by the kind that the manifest says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import IO

from indexes.ann.base import AnnIndex, unusable_ann
from indexes.ann.faiss_index import KIND, FaissIndex
from indexes.errors import CrosslookError, closed_collection
from indexes.manifest import AnnEntry
from indexes.open_files import Closable, OpenFile

ANN_FORMAT = 1  # the newest that is read, of every kind
KINDS: Mapping[str, Callable[[IO[bytes], AnnEntry], AnnIndex]] = {KIND: FaissIndex}


def unknown(entry: AnnEntry) -> str | None:
    """What of an index this version does not know, its kind or its format; None if it can be opened here."""
    if entry.kind not in KINDS:
        return f"of kind {entry.kind!r}"
    return f"in format {entry.format}" if entry.format > ANN_FORMAT else None


class AnnFile:
    """The index that a manifest names. Its file is opened at once, so that a writer may remove its name later; it is
    read when it is used for the first time, by one thread, since it may be as large as everything else together."""

    def __init__(self, folder: Path, entry: AnnEntry | None) -> None:
        """folder: of the collection's ANN indexes. entry: None if there is no index."""
        self._entry = entry
        self._file: Closable[OpenFile] | None = None
        self._is_closed = False
        self._lock = Lock()
        if entry is not None:
            self._path = folder / entry.file_name
            with suppress(OSError):
                self._file = Closable(OpenFile(self._path.open("rb")))

    @property
    def is_missing(self) -> bool:
        """Whether there is an entry, but no file that can be read."""
        return self._entry is not None and self._file is None

    @property
    def index(self) -> AnnIndex | None:
        """The opened index; None if there is none, or if it cannot be opened. Raises `CrosslookError` after `close`."""
        opened = self._opened_by_one_thread()
        return None if isinstance(opened, CrosslookError) else opened

    @property
    def fault(self) -> str | None:
        """Why it cannot be opened, and the remedy; None if it can be opened, or if there is none. Raises as `index`."""
        opened = self._opened_by_one_thread()
        return str(opened) if isinstance(opened, CrosslookError) else None

    def open(self) -> AnnIndex | None:
        """The index, read anew, or None. Raises `CrosslookError` if it cannot be opened, or after `close`."""
        entry = self._entry
        if entry is None:
            return None
        later = unknown(entry)
        if later is not None:
            raise CrosslookError(
                f"the ANN index is {later}, which this version cannot read: upgrade crosslook, or make it anew with "
                "`search optimize`"
            )
        if self._file is None:
            raise unusable_ann(self._path, "it is missing, or not readable")
        opened = self._file.get()
        return KINDS[entry.kind](opened.file, entry)

    def close(self) -> None:
        """Close the file and the index, if it was opened."""
        with self._lock:
            self._is_closed = True
            index = self.__dict__.get("_opened")
            if self._file is not None:
                self._file.close()
        if index is not None and not isinstance(index, CrosslookError):
            index.close()

    def _opened_by_one_thread(self) -> AnnIndex | CrosslookError | None:
        with self._lock:
            if self._is_closed:
                raise closed_collection()
            return self._opened

    @cached_property
    def _opened(self) -> AnnIndex | CrosslookError | None:
        try:
            return self.open()
        except CrosslookError as error:
            return error
