"""`search remove FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.being_indexed import reported_if_being_indexed
from cli.options import Index, collection_path, typed_path
from cli.show.output import note, plural


def remove(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", parser=typed_path, help="A folder, or one image.")],
    index: Index = None,
) -> None:
    """Take a folder out of the collection. The images themselves stay where they are."""
    from retrieval.maintenance import remove_folder

    collection = collection_path(index)
    with reported_if_being_indexed(collection):
        count = remove_folder(collection, folder, note)
    note(f"{plural(count, 'image')} removed from the collection")
