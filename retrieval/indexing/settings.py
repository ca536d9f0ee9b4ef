"""All steps: how to index."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.images import MAX_PIXELS

COMMIT_ROWS = 512
COMMIT_SECONDS = 30.0
FAST_COMMIT_SECONDS, FAST_COMMIT_BYTES = 5.0, 1_000_000_000


@dataclass(frozen=True)
class Settings:
    """exclude: gitignore patterns, which the collection remembers; no_exclude: remembered patterns to forget.
    max_pixels: of one image to decode. retry_failed: read files again that failed before. repair: drop damaged
    segments. forget: remove images whose folders are empty or not mounted. include_all: look into folders of
    thumbnails, trash and `.nomedia` as well. commit_rows, commit_seconds: a commit is made after so many images or so
    much time, whichever comes first. An encoder on a GPU makes larger ones: after at least so many images and
    `FAST_COMMIT_SECONDS`, or what `FAST_COMMIT_BYTES` hold."""

    exclude: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    retry_failed: bool = False
    repair: bool = False
    commit_rows: int = COMMIT_ROWS
    commit_seconds: float = COMMIT_SECONDS
    no_exclude: tuple[str, ...] = ()
    forget: bool = False
    include_all: bool = False


DEFAULT_SETTINGS = Settings()
