"""`search optimize`."""

from __future__ import annotations

from cli.options import Index, collection_path
from cli.output import note, plural


def optimize(index: Index = None) -> None:
    """Merge segments and drop what was removed, for less disk space and faster search."""
    from retrieval import maintenance

    found = maintenance.optimize(collection_path(index))
    done = [f"{plural(found.before, 'segment')} became {found.after:,}"] if found.before != found.after else []
    done += [f"{plural(found.dropped, 'tombstone')} dropped"] if found.dropped else []
    note(", ".join(done) or "nothing to merge")
