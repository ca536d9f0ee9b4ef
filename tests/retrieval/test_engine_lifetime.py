"""An engine from its first search to its end: loading, threads, newer commits, closing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.errors import CrosslookError
from retrieval.encoders.base import QueryFeatures
from retrieval.engine import Engine
from retrieval.fusion import Candidates, EncodedQuery
from retrieval.indexing.pipeline import index_folders
from retrieval.query import Query
from tests.retrieval.made_up_scorers import LastFirst, MadeUpScorer
from tests.support import FakeEncoder, write_photos


class Loading(LastFirst):
    """Notes when it is loaded and when the first score is asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.events: list[str] = []
        self.is_loaded = threading.Event()
        self.error = error

    def load(self) -> None:
        self.events.append("loaded")
        self.is_loaded.set()
        if self.error is not None:
            raise self.error

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        self.events.append("scored")
        if self.error is not None:
            raise self.error
        return super().score(query, candidates)


class WaitingEncoder(FakeEncoder):
    """Encodes queries only once the scorer is loaded."""

    def __init__(self, scorer: Loading) -> None:
        super().__init__()
        self.scorer = scorer

    def encode_queries(self, queries: Sequence[Query]) -> QueryFeatures:
        assert self.scorer.is_loaded.wait(20)
        self.scorer.events.append("encoded")
        return super().encode_queries(queries)


def test_the_scorer_is_loaded_while_the_first_query_is_encoded_and_not_again(path):
    scorer = Loading()
    engine = Engine(Collection.open(path), WaitingEncoder(scorer), scorer)
    assert scorer.events == []
    assert len(engine.search("a dog"))
    assert scorer.events == ["loaded", "encoded", "scored"]
    assert len(engine.search("a dog"))
    assert scorer.events[3:] == ["encoded", "scored"]


def test_an_error_while_loading_is_raised_by_each_search(path, encoder):
    engine = Engine(Collection.open(path), encoder, Loading(CrosslookError("the scorer is damaged")))
    for _ in range(2):
        with pytest.raises(CrosslookError, match="the scorer is damaged"):
            engine.search("a dog")


def with_more_photos(path: Path, encoder: FakeEncoder) -> None:
    write_photos(path.parent / "photos" / "c", 3, first=50)
    index_folders([path.parent / "photos"], path, encoder)


def test_an_engine_is_refreshed_over_the_newest_commit(path, encoder):
    scorer = LastFirst()
    engine = Engine(Collection.open(path), encoder, scorer, candidates=7)
    assert engine.refreshed() is engine
    with_more_photos(path, encoder)
    refreshed = engine.refreshed()
    assert refreshed is not engine and refreshed.refreshed() is refreshed
    assert (len(engine.search("a dog", 99)), len(refreshed.search("a dog", 99))) == (12, 15)
    assert (refreshed.encoder, refreshed.scorer, refreshed.candidates) == (encoder, scorer, 7)


def test_refreshing_costs_reading_one_small_file(path, encoder, monkeypatch):
    engine = Engine(Collection.open(path), encoder)
    monkeypatch.setattr(Collection, "open", lambda folder: pytest.fail("the collection was opened again"))
    assert engine.refreshed() is engine


def test_a_collection_whose_current_is_damaged_is_not_newer(path, encoder):
    (path / "CURRENT").write_text("nothing of the kind")
    engine = Engine(Collection.open(path), encoder)
    assert engine.collection.fault is not None and engine.refreshed() is engine


def test_the_old_engine_is_closed_only_if_there_is_a_new_one(path, encoder):
    """As `refreshed` says how to do it."""

    def newest(engine):
        new = engine.refreshed()
        if new is not engine:
            engine.close()
        return new

    engine = Engine(Collection.open(path), encoder)
    assert newest(engine) is engine and len(engine.search("a dog", 99)) == 12
    write_photos(path.parent / "photos" / "later", 3, first=50)
    index_folders([path.parent / "photos"], path, encoder)
    new = newest(engine)
    assert len(new.search("a dog", 99)) == 15
    with pytest.raises(CrosslookError, match="this engine is closed"):
        engine.search("a dog")


def test_a_refreshed_engine_works_after_the_old_one_is_closed(path, encoder):
    engine = Engine(Collection.open(path), encoder, LastFirst())
    with_more_photos(path, encoder)
    refreshed = engine.refreshed()
    engine.close()
    assert len(refreshed.search("a dog", 99)) == 15


def open_files() -> set[str]:
    return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if os.path.lexists(path)}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files can be listed on Linux only")
def test_a_closed_engine_keeps_no_file_open(path, encoder):
    with Engine(Collection.open(path), encoder, LastFirst()) as engine:
        engine.search("a dog")
        assert any(name.startswith(str(path)) for name in open_files())
    assert not any(name.startswith(str(path)) for name in open_files())


def test_a_closed_engine_says_so_in_one_line(path, encoder, tmp_path):
    engine = Engine(Collection.open(path), encoder)
    engine.close()
    engine.close()
    for use in (
        lambda: engine.search("a dog"),
        lambda: engine.search_many([]),
        lambda: engine.explain("a dog", tmp_path / "photos" / "a" / "000.png"),
        engine.refreshed,
    ):
        with pytest.raises(CrosslookError, match=r"^this engine is closed[^\n]*$"):
            use()


def test_closing_waits_for_the_searches_that_are_running(path, encoder):
    entered, go_on = threading.Event(), threading.Event()

    class Slow(MadeUpScorer):
        def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
            entered.set()
            go_on.wait(20)
            return candidates.regions()[:, 0, 0].astype(np.float32)

    engine = Engine(Collection.open(path), encoder, Slow())
    with ThreadPoolExecutor(2) as threads:
        search = threads.submit(engine.search, "a dog", 5)
        assert entered.wait(20)
        closing = threads.submit(engine.close)
        assert not closing.done()
        go_on.set()
        assert len(search.result(20)) == 5
        closing.result(20)


def test_many_threads_get_from_a_new_engine_what_one_thread_gets(tmp_path):
    """With folders, an ANN index, rows and failures. Freed memory is overwritten, so that reading it shows."""
    script = Path(__file__).with_name("engine_from_many_threads.py")
    run = subprocess.run(
        [sys.executable, script, tmp_path / "c", "5"],
        env=os.environ | {"MALLOC_PERTURB_": "165", "MALLOC_CHECK_": "3"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[0]) > 100
