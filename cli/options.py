"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Index = Annotated[
    Path | None,
    typer.Option("--index", "-i", help="The collection's folder [default: $CROSSLOOK_INDEX, else your own]."),
]
Candidates = Annotated[int, typer.Option(min=1, help="How many of the nearest images the scorer looks at.")]
Rerank = Annotated[bool, typer.Option("--rerank/--no-rerank", help="Whether the scorer looks at the nearest images.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def collection_path(index: Path | None) -> Path:
    from retrieval.location import default_collection

    return default_collection() if index is None else index
