"""Options that several commands share, and how paths are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def typed_path(text: str | Path) -> Path:
    """The `parser` of every path on the command line: `~` is the home folder also where the shell leaves it, as it does
    in quotes and in `--out=~/page`."""
    text = os.fspath(text)
    if not text.startswith("~"):
        return Path(text)
    from retrieval.location import expanded

    return expanded(text)


def name_or_path(text: str) -> str:
    """The same for what may be something else, such as a model's name, also behind a prefix, as in `blip:~/weights`."""
    prefix, colon, rest = text.partition(":")
    if colon and rest.startswith("~"):
        return f"{prefix}:{typed_path(rest)}"
    return str(typed_path(text)) if text.startswith("~") else text


Index = Annotated[
    Path | None,
    typer.Option(
        "--index",
        "-i",
        metavar="FOLDER",
        parser=typed_path,
        help="The collection's folder [default: $CROSSLOOK_INDEX, else your own].",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(parser=name_or_path, metavar="MODEL", help="Default: the collection's, or lite."),
]
Candidates = Annotated[int, typer.Option(min=1, help="How many of the nearest images the scorer looks at.")]
Rerank = Annotated[bool, typer.Option("--rerank/--no-rerank", help="Whether the scorer looks at the nearest images.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def collection_path(index: Path | None) -> Path:
    from retrieval.location import default_collection

    return default_collection() if index is None else index
