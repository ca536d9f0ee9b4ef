"""Planning: refuses listings that would empty a collection, or make one without an image."""

from __future__ import annotations

import os
from collections.abc import Sequence

from indexes.errors import CrosslookError
from indexes.folders import is_in_folder
from retrieval.images import ENDINGS
from retrieval.indexing.known import Known, rows_in_folder
from retrieval.indexing.listing import Listing, totals
from retrieval.indexing.messages import counted, passed_over_line, quoted, removal
from retrieval.indexing.settings import Settings


def refuse_nothing(roots: Sequence[bytes], listing: Listing) -> None:
    """Raises `CrosslookError` unless there is an image."""
    if listing.files:
        return
    for folder, reason in listing.unlisted:
        if folder in roots:
            raise CrosslookError(f"cannot read the folder {os.fsdecode(folder)}: {reason}")
    names = ", ".join(os.fsdecode(root) for root in roots)
    others = passed_over_line(totals(listing.passed_over.values()))
    raise CrosslookError(
        f"no images in {names} (looked for {' '.join(sorted(ENDINGS))})" + (f"; {others}" if others else "")
    )


def refuse_emptied(roots: Sequence[bytes], listing: Listing, known: Known, settings: Settings) -> None:
    """Raises `CrosslookError` if no root has an image, though some were indexed there: the roots look like drives
    that are not mounted. One root that has images is worth a run."""
    if listing.files:
        return
    for root in roots:
        lost = int(rows_in_folder(known.rows, root).sum())
        if lost and root not in dict(listing.unlisted):
            if settings.forget:
                return
            raise CrosslookError(
                f"{os.fsdecode(root)} holds no images now, but {counted(lost)} indexed there: "
                f"{_remedy(root, listing)}; if they are gone for good, `search index --forget {quoted(root)}` or "
                f"{removal(root)}"
            )
    refuse_nothing(roots, listing)


def _remedy(root: bytes, listing: Listing) -> str:
    if root in listing.left_out:
        return "a .nomedia file leaves it out"
    if any(is_in_folder(folder, [root]) for folder in (*listing.left_out, *listing.occupied)):
        return "every image is excluded"
    return "if it is a drive, mount it"
