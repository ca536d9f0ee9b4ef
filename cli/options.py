"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Index = Annotated[
    Path | None,
    typer.Option("--index", "-i", help="The collection's folder [default: $CROSSLOOK_INDEX, else your own]."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def collection_path(index: Path | None) -> Path:
    from retrieval.location import default_collection

    return default_collection() if index is None else index
