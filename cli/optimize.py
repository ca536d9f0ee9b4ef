"""`search optimize`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.being_indexed import told_if_being_indexed
from cli.options import Index, collection_path
from cli.show.output import note, plural


def optimize(
    index: Index = None,
    recall_target: Annotated[
        float | None,
        typer.Option(help="Share of the exact first ten that ANN search, of large collections, is to find [0.95]."),
    ] = None,
) -> None:
    """Merge segments and drop what was removed, for less disk space and faster search.

    Of a large collection it also makes, or extends, the index by which a query need not be compared with every image,
    tunes it with texts, and says what share of the exact first ten it finds."""
    from cli.show.steps import step_display
    from retrieval import maintenance
    from retrieval.indexing.ann_upkeep import describe

    path = collection_path(index)
    with told_if_being_indexed(path), step_display() as watcher:
        found = maintenance.optimize(path, recall_target, watcher.step, watcher.note)
    done = [f"{plural(found.before, 'segment')} became {found.after:,}"] if found.before != found.after else []
    done += [f"{plural(found.dropped, 'tombstone')} dropped"] if found.dropped else []
    done += [describe(found.ann) if found.ann else "exact search again"] if found.new_ann else []
    note("; ".join(done) or "nothing to do")
