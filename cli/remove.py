"""`search remove FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Index, collection_path
from cli.output import note, plural


def remove(
    folder: Annotated[Path, typer.Argument(help="A folder, or one image.")],
    index: Index = None,
) -> None:
    """Take a folder out of the collection. The images themselves stay where they are."""
    from retrieval.maintenance import remove_folder

    count = remove_folder(collection_path(index), folder)
    note(f"{plural(count, 'image')} removed from the collection")
