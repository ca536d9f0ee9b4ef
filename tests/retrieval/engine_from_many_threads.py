"""Many threads use one Engine that none of them has used before: each gets the answers that one thread gets.

It is a script because an error in C ends the process. Arguments: a folder to work in, and for how many seconds. Prints
how many answers were compared."""

from __future__ import annotations

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import indexes.search
from indexes.ann.building import build_ann
from indexes.ann.source import Rows, Source
from indexes.collection import Collection
from indexes.writer import CollectionWriter
from retrieval.encoders.base import unit_norm
from retrieval.engine import Engine
from tests.batches import BINDING, make_batch
from tests.support import FakeEncoder

THREADS = 8
ROWS = 2500  # of a segment: several row groups
TEXTS = [f"text {number}" for number in range(12)]
FOLDERS = (None, "/photos", "/others", "/nowhere")


def make_collection(path: Path) -> None:
    with CollectionWriter(path, BINDING) as writer:
        for number in range(5):
            folder = "/photos" if number % 2 else "/others"
            writer.commit(make_batch(writer.manifest.next_id, ROWS, folder=folder, failures=2))
        writer.commit(removed=range(5, 400, 7))
        collection = writer.collection
        parts = zip(collection.segments, collection.alive, strict=True)
        rows = [
            Rows(segment.ids, segment.embeddings.mapped)
            if alive is None
            else Rows(segment.ids[alive], segment.embeddings.mapped[alive])
            for segment, alive in parts
        ]
        texts = unit_norm(np.random.default_rng(0).normal(size=(60, 8))).astype(np.float32)
        source = Source(rows, lambda ids: collection.embeddings(collection.positions(ids)), texts)
        writer.put_ann(lambda file: build_ann(source, 0.9, file))
        writer.commit(make_batch(writer.manifest.next_id, 300, folder="/photos"))


def answers(engine: Engine, text: str, folder: str | None) -> list[tuple[object, ...]]:
    hits = engine.search(text, 20, in_folder=folder)
    failures = len(engine.collection.failures())
    return [(hit.id, hit.path, hit.similarity, hit.width, failures) for hit in hits]


def main(folder: Path, seconds: float) -> None:
    make_collection(folder)
    questions = [(text, folder) for text in TEXTS for folder in FOLDERS]
    alone = Engine(Collection.open(folder), FakeEncoder())
    expected = {question: answers(alone, *question) for question in questions}
    assert alone.collection.ann is not None and sum(len(hits) for hits in expected.values()) > 500
    until, compared, rng = time.monotonic() + seconds, 0, random.Random(0)
    while time.monotonic() < until:
        engine = Engine(Collection.open(folder), FakeEncoder())
        with ThreadPoolExecutor(THREADS) as threads:
            shuffled = [question for _ in range(3) for question in rng.sample(questions, len(questions))]
            everyones = threads.map(answers, [engine] * len(shuffled), *zip(*shuffled, strict=True))
            for question, hits in zip(shuffled, everyones, strict=True):
                assert hits == expected[question], question
                compared += 1
    print(compared, "answers")


if __name__ == "__main__":
    with patch.object(indexes.search, "FEWEST_ROWS", 100):  # so that filtered searches use the ANN index
        main(Path(sys.argv[1]), float(sys.argv[2]))
