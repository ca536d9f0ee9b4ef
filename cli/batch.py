"""`search --batch FILE|-`: many queries in one process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, TextIO

from cli.output import write_line
from cli.query import hit_record, json_line
from indexes.errors import CrosslookError

if TYPE_CHECKING:
    from retrieval.engine import Engine

AT_ONCE = 64


def answer_batch(engine: Engine, source: str, top: int, within: Path | None, min_match: float) -> None:
    """One JSON object for each line, in order: its `query` and `hits`, or the `error` that it is."""
    if top < 1:
        raise CrosslookError(f"cannot return {top} results: ask for 1 or more")
    for lines in _batches(source):
        asked = [line for line in lines if line.strip()]
        answers = iter(engine.search_many(asked, top, below=within, min_match=min_match) if asked else [])
        for line in lines:
            if line.strip():
                record: dict[str, object] = {"query": line, "hits": [hit_record(hit) for hit in next(answers)]}
            else:
                record = {"query": line, "error": "the query is empty"}
            write_line(json_line(record))


def _batches(source: str) -> Iterator[list[str]]:
    """Lines in order, as many at once as have come: a slow writer gets each answer at once, a file is read in batches.
    Reading waits for the answers, so that a long file is not held in memory."""
    ready: Queue[str | Exception | None] = Queue(maxsize=2 * AT_ONCE)
    threading.Thread(target=_read, args=(source, ready), daemon=True).start()
    ended = False
    while not ended:
        taken = [ready.get()]
        while len(taken) < AT_ONCE and taken[-1] is not None:
            try:
                taken.append(ready.get_nowait())
            except Empty:
                break
        lines = []
        for item in taken:
            if isinstance(item, Exception):
                raise item
            if item is None:
                ended = True
            else:
                lines.append(item)
        if lines:
            yield lines


def _read(source: str, ready: Queue[str | Exception | None]) -> None:
    try:
        with _open(source) as lines:
            for line in lines:
                ready.put(line.rstrip("\r\n"))
        ready.put(None)
    except OSError as error:
        ready.put(CrosslookError(f"cannot read the queries in {source}: {error.strerror}"))
    except UnicodeDecodeError:
        ready.put(CrosslookError(f"cannot read the queries in {source}: not UTF-8"))


def _open(source: str) -> nullcontext[TextIO] | TextIO:
    return nullcontext(sys.stdin) if source == "-" else open(source, encoding="utf-8-sig")
