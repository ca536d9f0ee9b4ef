"""Works on a collection in child processes that are killed (SIGKILL) at their first, second, third ... moment.

After every kill, further processes check that the collection holds one complete commit of the uninterrupted run, and
that running again ends in exactly the uninterrupted collection. Prints how many moments were tried.

Arguments: a folder to work in, and `nothing` (the first run ever), `change` (a run over a changed folder, with merges
in between) or `optimize`. It is a script, since it must fork before any thread exists."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from indexes.collection import Collection
from indexes.commits import find_commit
from indexes.verification import verify
from retrieval.indexing import run
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from retrieval.maintenance import optimize
from tests.indexes.contents import contents
from tests.killing import try_every_moment
from tests.support import FakeEncoder, write_photo, write_photos

SETTINGS = Settings(commit_rows=3)


def failures(path: Path) -> list[dict[str, object]]:
    return Collection.open(path).failures().to_pylist()


def main(folder: Path, scenario: str) -> None:
    photos, start, finished, tried, expected = (
        folder / name for name in ("photos", "start", "finished", "tried", "expected")
    )
    run.MANY_SEGMENTS = 2

    def index(path: Path) -> None:
        index_folders([photos], path, FakeEncoder(), SETTINGS)

    def prepare() -> None:
        """Makes the collection to start from, and changes the folder: additions, a change, a move and a removal."""
        write_photos(photos, 4)
        start.mkdir()
        if scenario != "nothing":
            index(start)
        write_photos(photos, 2, first=20)
        write_photo(photos / "001.png", seed=99)
        (photos / "002.png").rename(photos / "moved.png")
        (photos / "003.png").unlink()
        (photos / "broken.png").write_bytes(b"no")
        if scenario == "optimize":
            index(start)
        shutil.copytree(start, finished)
        act(finished)
        begun = [] if scenario == "nothing" else contents(start)
        expected.write_bytes(pickle.dumps((begun, contents(finished), failures(finished))))

    def act(path: Path) -> None:
        optimize(path) if scenario == "optimize" else index(path)

    def check() -> None:
        begun, uninterrupted, uninterrupted_failures = pickle.loads(expected.read_bytes())
        rows = contents(tried) if find_commit(tried) is not None else []
        assert all(row in begun or row in uninterrupted for row in rows), "a row of no commit"
        assert {row[1] for row in rows} >= {row[1] for row in begun if row in uninterrupted}, "a committed row is lost"
        act(tried)
        assert contents(tried) == uninterrupted, "not what the uninterrupted run gives"
        assert failures(tried) == uninterrupted_failures
        names = {f"{entry.number:06d}" for entry in Collection.open(tried).manifest.segments}
        assert {path.name for path in (tried / "segments").iterdir()} == names, "files that nothing names"
        assert verify(tried).faults == ()

    try_every_moment(prepare, start, tried, lambda: act(tried), check)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
