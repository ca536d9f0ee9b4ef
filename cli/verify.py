"""`search verify`."""

from __future__ import annotations

import json

import typer

from cli.being_indexed import told_if_being_indexed
from cli.options import Index, Json, collection_path
from cli.show.output import note, plural, printable, size, write_line
from cli.statuses import ERROR


def verify(index: Index = None, as_json: Json = False) -> None:
    """Read every file of a collection and say what is damaged.

    Exit status: 0 where all is well, 2 where something is damaged; then `search index --repair FOLDER` mends it."""
    from cli.show.steps import step_display
    from indexes.verification import verify as run
    from retrieval.progress import Step

    path = collection_path(index)
    with told_if_being_indexed(path), step_display() as watcher:
        verification = run(path, lambda done, total: watcher.step(Step("checking segments", done, total)))
    if as_json:
        record = {"files": verification.files, "bytes": verification.bytes, "unchecked": verification.unchecked}
        write_line(json.dumps({**record, "faults": list(verification.faults)}))
    else:
        for fault in verification.faults:
            write_line(printable(fault))
        read = f"{plural(verification.files, 'file')} with {size(verification.bytes)} read"
        note(f"{read}: {plural(len(verification.faults), 'fault') if verification.faults else 'nothing is damaged'}")
    if verification.unchecked:
        note(
            f"{plural(verification.unchecked, 'file')} of an earlier version had no checksum to compare with: "
            "`search index --repair FOLDER` makes them"
        )
    if verification.faults:
        note("`search index --repair FOLDER` mends what is damaged")
        raise typer.Exit(ERROR)
