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
LONGEST_LINE = 1_000_000  # bytes; a longer one is no query, and must not fill the memory


def answer_batch(engine: Engine, source: str, top: int, within: Path | None, min_match: float) -> None:
    """One JSON object for each line, in order: its `query` and `hits`, or the `error` that it is."""
    if top < 1:
        raise CrosslookError(f"cannot return {top} results: ask for 1 or more")
    for lines in _batches(source):
        queries = [line.text for line in lines if line.fault is None]
        answers = iter(engine.search_many(queries, top, below=within, min_match=min_match) if queries else [])
        for line in lines:
            record: dict[str, object] = {"query": line.text}
            record |= {"error": line.fault} if line.fault else {"hits": [hit_record(hit) for hit in next(answers)]}
            write_line(json_line(record))


@dataclass(frozen=True)
class _Line:
    """A query, or why it is none. Bytes that are not UTF-8 are lone surrogates in it."""

    text: str
    fault: str | None


def _batches(source: str) -> Iterator[list[_Line]]:
    """Lines in order, as many at once as have come: a slow writer gets each answer at once, a file is read in batches.
    Reading waits for the answers, so that a long file is not held in memory."""
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
    """In a thread of its own; whatever ends it reaches the other side, which would wait for ever."""
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
    """A descriptor, not a file of Python's: when Python ends, a thread that waits in one of those holds its lock."""
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
    """Of a line that is too long the rest is passed over."""
    pending = b""
    is_cut = False
    for chunk in _chunks(descriptor):
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


def _chunks(descriptor: int) -> Iterator[bytes]:
    """What comes, as it comes, without a mark of the byte order at the beginning."""
    is_first = True
    while True:
        try:
            chunk = os.read(descriptor, READ_BYTES)
        except BlockingIOError:  # whoever shares this stdin has made it so
            select.select([descriptor], [], [])
            continue
        if not chunk:
            return
        yield chunk.removeprefix(codecs.BOM_UTF8) if is_first else chunk
        is_first = False
