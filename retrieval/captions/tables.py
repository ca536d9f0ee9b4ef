"""Tables with one caption per line: Flickr8k's captions.txt and Flickr8k.token.txt, Flickr30k's results.csv."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from retrieval.captions.entries import Caption, Entry
from retrieval.captions.errors import error_in
from retrieval.captions.text import numbered_lines

CSV = "CSV with the header image,caption"
PIPES = "Flickr30k results.csv"
TOKENS = "Flickr8k.token.txt"

CSV_HEADER = ["image", "caption"]
PIPES_HEADER = ["image_name", "comment_number", "comment"]


def recognise_table(source: Path, header: str, line: int) -> str | None:
    """The table with this first line; None if it is no table. Raises `CrosslookError` for a header with wrong
    columns."""
    if re.match(r"[^\t|,]+#\d+(\s|$)", header):
        return TOKENS
    if _columns(header, "|") == PIPES_HEADER:
        return PIPES
    if _columns(header, ",") == CSV_HEADER:
        return CSV
    if set(_columns(header, r"[,;|\t]")) & {"image", "caption", "image_name", "comment"}:
        reason = f"wrong columns: make the header {','.join(CSV_HEADER)} (or {'| '.join(PIPES_HEADER)})"
        raise error_in(source, reason, f"line {line}")
    return None


def csv_entries(source: Path, text: str) -> Iterator[Entry]:
    """Quoted as in RFC 4180: a caption may hold commas, quotes and line breaks."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    line, header_seen = 1, False
    try:
        for row in rows:
            where, line = f"line {line}", rows.line_num + 1
            if not "".join(row).strip():
                continue
            if not header_seen:
                header_seen = True
                continue
            if len(row) != 2:
                reason = f"wrong columns: {len(row)} where image,caption has 2: put double quotes around the caption"
                raise error_in(source, reason, where)
            yield Entry(where, row[0], (Caption(where, row[1]),))
    except csv.Error as error:
        reason = f"cannot be read as CSV ({error}): double the quotes inside a quoted caption, and close it"
        raise error_in(source, reason, f"line {line}") from error


def pipe_entries(source: Path, text: str) -> Iterator[Entry]:
    lines = numbered_lines(text)
    next(lines)
    for number, line in lines:
        where = f"line {number}"
        columns = line.split("|", maxsplit=2)
        if len(columns) == 2:  # the published file lacks the second bar once: "2199200615.jpg| 4   A dog runs across"
            columns[1:] = columns[1].split(maxsplit=1)
        if len(columns) != 3 or not columns[1].strip().isdigit():
            reason = f"wrong columns: write the line as {'| '.join(PIPES_HEADER)}, the second a number"
            raise error_in(source, reason, where)
        yield Entry(where, columns[0].strip(), (Caption(where, columns[2]),))


def token_entries(source: Path, text: str) -> Iterator[Entry]:
    for number, line in numbered_lines(text):
        where = f"line {number}"
        name, tab, caption = line.partition("\t")
        image, _, count = name.rpartition("#")
        if not tab or not image or not count.isdigit():
            raise error_in(source, "wrong columns: write the line as name.jpg#0, a tab, the caption", where)
        yield Entry(where, image, (Caption(where, caption),))


def _columns(header: str, separator: str) -> list[str]:
    pattern = separator if separator.startswith("[") else re.escape(separator)
    return [name.strip().strip('"').lower() for name in re.split(pattern, header)]
