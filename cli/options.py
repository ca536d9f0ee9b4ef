"""Options that several commands share, and how paths on the command line are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from indexes.on_device.gpus import DEVICES


def typed_path(text: str | Path) -> Path:
    """The `parser` of every path on the command line. It expands `~` where the shell does not: in quotes and in
    `--out=~/page`."""
    text = os.fspath(text)
    if not text.startswith("~"):
        return Path(text)
    from retrieval.location import expanded

    return expanded(text)


def name_or_path(text: str) -> str:
    """The same for a text that may also be a name, such as a model's, with or without a prefix: `blip:~/weights`."""
    prefix, colon, rest = text.partition(":")
    if colon and rest.startswith("~"):
        return f"{prefix}:{typed_path(rest)}"
    return str(typed_path(text)) if text.startswith("~") else text


Index = Annotated[
    Path | None,
    typer.Option(
        "--index",
        "-i",
        metavar="COLLECTION",
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
Scorer = Annotated[
    str | None,
    typer.Option(
        metavar="SCORER",
        parser=name_or_path,
        help="blip:NAME_OR_FOLDER looks at the image files again: a second each on a CPU; needs torch.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def device_name(text: str) -> str:
    """The `parser` of --device."""
    if text not in DEVICES:
        raise typer.BadParameter(f"{text} is not auto, cpu or cuda")
    return text


Device = Annotated[
    str, typer.Option(metavar="DEVICE", parser=device_name, help="auto, cpu or cuda; auto is a GPU where it pays.")
]


def refuse_scorer(scorer: str | None, rerank: bool) -> None:
    """Raises `typer.BadParameter` for a scorer where nothing is re-ranked."""
    if scorer is not None and not rerank:
        raise typer.BadParameter("--no-rerank leaves nothing to score", param_hint="--scorer")


def collection_path(index: Path | None) -> Path:
    from retrieval.location import default_collection

    return default_collection() if index is None else index
