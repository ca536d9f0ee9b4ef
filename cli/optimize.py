"""`search optimize`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.being_indexed import reported_if_being_indexed
from cli.options import Device, Index, collection_path
from cli.show.output import note, plural


def optimize(
    index: Index = None,
    recall_target: Annotated[
        float | None,
        typer.Option(help="Share of the exact first ten that the ANN index must find, 0 to 1 [0.95]."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Merge segments and drop what was removed, for less disk space and faster search.

    For a large collection it also builds or extends the ANN index, so that a query need not be compared with every
    image. It tunes the index with texts and prints its recall: the share of the exact first ten that it finds. For half
    a million images or more a GPU learns and fills its lists."""
    from cli.show.steps import step_display
    from retrieval import maintenance
    from retrieval.indexing.ann_upkeep import describe

    path = collection_path(index)
    with reported_if_being_indexed(path), step_display() as observer:
        optimized = maintenance.optimize(path, recall_target, observer.step, observer.note, device)
    changes = []
    if optimized.before != optimized.after:
        changes.append(f"{plural(optimized.before, 'segment')} became {optimized.after:,}")
    if optimized.dropped:
        changes.append(f"{plural(optimized.dropped, 'dead entry', 'dead entries')} dropped")
    if optimized.new_ann:
        changes.append(describe(optimized.ann) if optimized.ann else "exact search again")
    note("; ".join(changes) or "nothing to do")
