"""Write reserved segments and adopt them in child processes that are killed (SIGKILL) at their first, second, third ...
moment. After each kill, in further processes: the commit before or the one with all adopted segments is in force, and
whole. The next writer leaves no file that nothing names, gives no id twice, and can do the same again. Prints how many
moments were tried.

A script of its own, since it forks before any thread exists."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from indexes.collection import Collection
from indexes.paths import segments_folder
from indexes.segment_files import write_segment
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.killing import try_every_moment


def adopt(path: Path) -> None:
    with CollectionWriter(path, BINDING) as writer:
        reservations = [writer.reserve(4), writer.reserve(3)]
        entries = [
            write_segment(path, make_batch(reservation.first_id, reservation.count - 1, failures=1), reservation)
            for reservation in reservations
        ]
        writer.adopt(entries, dead=[1])


def main(folder: Path) -> None:
    start, tried = folder / "start", folder / "tried"

    def prepare() -> None:
        with CollectionWriter(start, BINDING) as writer:
            writer.commit(make_batch(1, 6))

    def check() -> None:
        collection = Collection.open(tried)
        is_adopted = len(collection.segments) == 3
        assert len(collection) == (10 if is_adopted else 6)
        assert verify(tried).faults == ()
        with CollectionWriter(tried, BINDING) as writer:  # a commit that was whole but for CURRENT is taken over
            named = [f"{entry.number:06d}" for entry in writer.manifest.segments]
            assert len(named) == 3 or not is_adopted
            assert sorted(path.name for path in segments_folder(tried).iterdir()) == sorted(named)
        adopt(tried)
        collection = Collection.open(tried)
        ids = [row for segment in collection.segments for row in segment.ids.tolist()]
        assert len(collection.segments) == len(named) + 2 and ids == sorted(set(ids))
        assert verify(tried).faults == ()

    try_every_moment(prepare, start, tried, lambda: adopt(tried), check)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
