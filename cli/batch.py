"""`search --batch FILE|-`: many queries in one process."""

from __future__ import annotations

import codecs
import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING

from cli.show.hits import hit_record
from cli.show.output import json_line, write_line
from indexes.errors import CrosslookError

if TYPE_CHECKING:
    from retrieval.engine import Engine

AT_ONCE = 64
READ_BYTES = 65_536
LONGEST_LINE = 1_000_000  # bytes; a longer line is no query and must not fill the memory


def answer_batch(engine: Engine, source: str, top: int, in_folder: Path | None, min_match: float) -> None:
    """Print one JSON object for each line, in order: its `query` and `hits`, or its `error`."""
    if top < 1:
        raise CrosslookError(f"cannot return {top} results: ask for 1 or more")
    for lines in _batches(source):
        queries = [line.text for line in lines if line.fault is None]
        answers = iter(engine.search_many(queries, top, in_folder=in_folder, min_match=min_match) if queries else [])
        for line in lines:
            record: dict[str, object] = {"query": line.text}
            record |= {"error": line.fault} if line.fault else {"hits": [hit_record(hit) for hit in next(answers)]}
            write_line(json_line(record))


@dataclass(frozen=True)
class _Line:
    """A line as text, and its fault if it is no query. Bytes that are not UTF-8 are lone surrogates."""

    text: str
    fault: str | None


def _batches(source: str) -> Iterator[list[_Line]]:
    """Lines in order, as many at a time as have arrived: a slow writer gets each answer at once, a file is read in
    batches. Reading waits for the answers, so that a long file is never in memory at once."""
    ready: Queue[_Line | BaseException | None] = Queue(maxsize=2 * AT_ONCE)
    threading.Thread(target=_read, args=(source, ready), daemon=True).start()
    ended = False
    while not ended:
        taken = [ready.get()]
        while len(taken) < AT_ONCE and isinstance(taken[-1], _Line):
            try:
                taken.append(ready.get_nowait())
            except Empty:
                break
        lines = [item for item in taken if isinstance(item, _Line)]
        if lines:
            yield lines
        if isinstance(taken[-1], BaseException):
            raise taken[-1]
        ended = taken[-1] is None


def _read(source: str, ready: Queue[_Line | BaseException | None]) -> None:
    """Read lines, in another thread. An error that ends it is passed on, since the main thread waits for lines."""
    try:
        with _opened(source) as descriptor:
            for line in _lines(descriptor):
                ready.put(line)
        ready.put(None)
    except OSError as error:
        ready.put(CrosslookError(f"cannot read the queries in {source}: {error.strerror or error}"))
    except BaseException as error:
        ready.put(error)


@contextmanager
def _opened(source: str) -> Iterator[int]:
    """A descriptor, not a Python file: at exit the interpreter waits for the lock of a file that a thread reads."""
    if source == "-":
        if sys.stdin is None:
            raise CrosslookError("cannot read the queries in -: standard input is closed")
        yield sys.stdin.fileno()
        return
    descriptor = os.open(source, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lines(descriptor: int) -> Iterator[_Line]:
    """Lines of a descriptor; a line that is too long is cut."""
    pending = b""
    is_cut = False
    for chunk in read_chunks(descriptor):
        *ended, pending = (pending + chunk).split(b"\n")
        for content in ended:
            if not is_cut:
                yield _line(content)
            is_cut = False
        if is_cut:
            pending = b""
        elif len(pending) > LONGEST_LINE:
            yield _line(pending)
            pending, is_cut = b"", True
    if pending:
        yield _line(pending)


def _line(content: bytes) -> _Line:
    if len(content) > LONGEST_LINE:
        beginning = content[:100].decode("utf-8", "surrogateescape")
        return _Line(f"{beginning}...", f"the query is longer than {LONGEST_LINE:,} bytes")
    text = content.rstrip(b"\r").decode("utf-8", "surrogateescape")
    if not text.strip():
        return _Line(text, "the query is empty")
    is_utf8 = not any("\udc80" <= character <= "\udcff" for character in text)
    return _Line(text, None if is_utf8 else "the query is not UTF-8")


def read_chunks(descriptor: int) -> Iterator[bytes]:
    """Chunks as they arrive, without a byte order mark at the beginning."""
    is_first = True
    while True:
        try:
            chunk = os.read(descriptor, READ_BYTES)
        except BlockingIOError:  # another process that shares this stdin made it non-blocking
            select.select([descriptor], [], [])
            continue
        if not chunk:
            return
        yield chunk.removeprefix(codecs.BOM_UTF8) if is_first else chunk
        is_first = False
