"""The text of a file, and its lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from retrieval.captions.errors import error_in


def decode_text(source: Path, content: bytes, where: str = "") -> str:
    """Decodes UTF-8, with or without a byte order mark. Raises `CrosslookError` with the line that is not UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise error_in(source, "is UTF-16: save it as UTF-8", where)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = f"line {error.object[: error.start].count(10) + 1}"
        raise error_in(source, "is not UTF-8: save it as UTF-8", f"{where}, {line}" if where else line) from error


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers, from 1. Only line feeds end a line: a caption may hold
    U+2028."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")
