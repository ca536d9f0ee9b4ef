"""Where the user's own collection is."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "CROSSLOOK_INDEX"


def default_collection() -> Path:
    """`$CROSSLOOK_INDEX`, else a folder among the user's data."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("crosslook", appauthor=False) / "collection"
