"""How the hits of a query are printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.show.output import json_line, note, plural, printable, wants_colour, worth, write_line

if TYPE_CHECKING:
    from retrieval.query import Hit, Results


def hit_record(hit: Hit) -> dict[str, object]:
    """A hit as a JSON object. missing: no file is at its path now."""
    return {
        "rank": hit.rank,
        "path": hit.path,
        "score": round(hit.score, 6),
        "similarity": round(hit.similarity, 6),
        "match": None if hit.match is None else round(hit.match, 6),
        "width": hit.width,
        "height": hit.height,
        "taken_at": None if hit.taken_at is None else hit.taken_at.isoformat(),
        "missing": is_missing(hit),
    }


def print_paths(hits: Sequence[Hit], end: str) -> int:
    """Print the paths, unescaped, of the files that exist, for other programs to open. Returns how many."""
    present = [hit for hit in hits if not is_missing(hit)]
    if len(present) < len(hits):
        note(f"left out: {_missing(len(hits) - len(present))}")
    for hit in present:
        write_line(hit.path, end)
    return len(present)


def print_json(hits: Sequence[Hit]) -> None:
    for hit in hits:
        write_line(json_line(hit_record(hit)))


def print_lines(hits: Sequence[Hit]) -> None:
    """Print rank, score and path, tab-separated, for other programs."""
    missing = sum(is_missing(hit) for hit in hits)
    if missing:
        note(f"among these: {_missing(missing)}")
    for hit in hits:
        write_line(f"{hit.rank}\t{hit.score:.4f}\t{printable(hit.path)}")


def print_table(results: Results) -> None:
    """Print match or score, size and path, for people."""
    bold, dim, plain = ("\033[1m", "\033[2m", "\033[0m") if wants_colour(sys.stdout) else ("", "", "")
    for hit in results:
        folder, slash, name = printable(hit.path).rpartition("/")
        good, size = worth(hit.score, hit.match), f"{hit.width}x{hit.height}"
        mark = "  (missing)" if is_missing(hit) else ""
        write_line(f"{hit.rank:>4}  {good:>6}  {size:>11}  {dim}{folder}{slash}{plain}{bold}{name}{plain}{mark}")


def is_missing(hit: Hit) -> bool:
    """Whether there is no file at the path: it is gone, or its drive is away."""
    return not os.path.lexists(hit.path)


def _missing(count: int) -> str:
    are = "is" if count == 1 else "are"
    return f"{plural(count, 'image')} that {are} missing; `search index FOLDER` brings the collection up to date"
