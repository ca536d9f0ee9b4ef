"""`search optimize`."""

from __future__ import annotations

from cli.options import Index, collection_path
from cli.output import note, plural


def optimize(index: Index = None) -> None:
    """Merge segments and drop what was removed, for less disk space and faster search."""
    from retrieval import maintenance

    before, after = maintenance.optimize(collection_path(index))
    note(f"{plural(before, 'segment')} became {after:,}" if before != after else "nothing to merge")
