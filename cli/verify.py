"""`search verify`."""

from __future__ import annotations

import json

import typer

from cli.being_indexed import reported_if_being_indexed
from cli.options import Index, Json, collection_path
from cli.process.statuses import ERROR
from cli.show.output import note, plural, printable, size, write_line


def verify(index: Index = None, as_json: Json = False) -> None:
    """Read every file of a collection and print the result, with a line for each damaged file.

    Exit status: 0 if nothing is damaged, 2 otherwise. `search index --repair FOLDER` mends damage."""
    from cli.show.steps import step_display
    from indexes.verification import verify as run
    from retrieval.progress import Step

    path = collection_path(index)
    with reported_if_being_indexed(path), step_display() as observer:
        verification = run(path, lambda done, total: observer.step(Step("checking segments", done, total)))
    if as_json:
        record = {"files": verification.files, "bytes": verification.bytes, "unchecked": verification.unchecked}
        write_line(json.dumps({**record, "faults": list(verification.faults)}))
    else:
        for fault in verification.faults:
            write_line(printable(fault))
        read = f"{plural(verification.files, 'file')} with {size(verification.bytes)} read"
        result = plural(len(verification.faults), "fault") if verification.faults else "nothing is damaged"
        write_line(f"{read}: {result}")
    if verification.unchecked:
        note(
            f"{plural(verification.unchecked, 'file')} of an earlier version had no checksum to compare with: "
            "`search index --repair FOLDER` makes them"
        )
    if verification.faults:
        note("`search index --repair FOLDER` mends what is damaged")
        raise typer.Exit(ERROR)
