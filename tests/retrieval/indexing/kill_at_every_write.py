"""Index a folder in child processes that are killed (SIGKILL) before their first, second, third ... step that makes
something durable. After each kill, in further processes: what counts is some commit of the uninterrupted run, whole;
and running again ends in exactly the uninterrupted collection. Prints how many moments were tried.

A script of its own, since it forks before any thread exists."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from indexes.collection import Collection
from indexes.commits import current_name
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.survey import Settings
from tests.killing import try_every_moment
from tests.support import FakeEncoder, write_photo, write_photos

SETTINGS = Settings(commit_rows=3)


def contents(path: Path) -> list[tuple[object, ...]]:
    collection = Collection.open(path)
    table = collection.table(["id", "path", "size", "mtime_ns", "content_hash", "width", "height"])
    positions = table.column("position").to_numpy()
    embeddings, tokens = collection.embeddings(positions).tolist(), collection.tokens(positions).tolist()
    rows = table.drop_columns(["position"]).to_pylist()
    return [(*row.values(), *vectors) for row, *vectors in zip(rows, embeddings, tokens, strict=True)]


def failures(path: Path) -> list[dict[str, object]]:
    return Collection.open(path).failures().to_pylist()


def main(folder: Path) -> None:
    photos, start, whole, tried = (folder / name for name in ("photos", "start", "whole", "tried"))

    def prepare() -> None:
        """A collection to change, and the folder as it is after additions, a change, a move and a removal."""
        write_photos(photos, 6)
        index_folders([photos], start, FakeEncoder(), SETTINGS)
        write_photos(photos, 7, first=20)
        write_photo(photos / "001.png", seed=99)
        (photos / "002.png").rename(photos / "moved.png")
        (photos / "003.png").unlink()
        (photos / "broken.png").write_bytes(b"no")
        shutil.copytree(start, whole)
        index_folders([photos], whole, FakeEncoder(), SETTINGS)

    def index() -> None:
        index_folders([photos], tried, FakeEncoder(), SETTINGS)

    def check() -> None:
        begun, uninterrupted = contents(start), contents(whole)
        assert current_name(tried) is not None
        found = contents(tried)
        assert all(row in begun or row in uninterrupted for row in found), "a row of no commit"
        assert {row[1] for row in found} >= {row[1] for row in begun if row in uninterrupted}, "a committed row is lost"
        index_folders([photos], tried, FakeEncoder(), SETTINGS)
        assert contents(tried) == uninterrupted, "not what the uninterrupted run gives"
        assert failures(tried) == failures(whole)
        named = {f"{entry.number:06d}" for entry in Collection.open(tried).manifest.segments}
        assert {path.name for path in (tried / "segments").iterdir()} == named, "files that nothing names"

    try_every_moment(prepare, start, tried, index, check)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
