"""Put a new ANN index in force in child processes that are killed (SIGKILL) before their first, second, third ... step
that makes something durable. After each kill, in further processes: the index before or the new one is in force, whole,
and the next writer leaves no file that nothing names. Prints how many moments were tried.

A script of its own, since it forks before any thread exists."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from indexes.collection import Collection
from indexes.paths import ann_folder
from indexes.writer import CollectionWriter
from tests.indexes.ann_collections import BINDING, add_ann, batch, image_embeddings
from tests.killing import try_every_moment


def main(folder: Path) -> None:
    start, tried = folder / "start", folder / "tried"

    def prepare() -> None:
        with CollectionWriter(start, BINDING) as writer:
            writer.commit(batch(1, image_embeddings(600)))
        add_ann(start, texts=10)

    def check() -> None:
        collection = Collection.open(tried)
        assert collection.manifest.ann is not None and collection.manifest.ann.number in (1, 2)
        assert collection.open_ann() is not None
        with CollectionWriter(tried, BINDING) as writer:
            in_force = writer.manifest.ann  # a commit that was whole but for CURRENT is taken over
        assert in_force is not None and in_force.number in (collection.manifest.ann.number, 2)
        assert [path.name for path in ann_folder(tried).iterdir()] == [in_force.file_name]
        add_ann(tried, texts=10)
        assert Collection.open(tried).open_ann() is not None

    try_every_moment(prepare, start, tried, lambda: add_ann(tried, texts=10), check)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
