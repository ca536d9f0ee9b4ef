"""The query engine, over a collection made by the pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import retrieval
from indexes.collection import Collection
from indexes.errors import CrosslookError
from retrieval.calibration import Calibration
from retrieval.engine import Engine
from retrieval.indexing.pipeline import index_folders
from tests.support import FakeEncoder, write_photos

HEAVY = ("torch", "torchvision", "timm", "transformers", "open_clip", "sentence_transformers")


@pytest.fixture
def path(tmp_path, encoder):
    write_photos(tmp_path / "photos" / "a", 6)
    write_photos(tmp_path / "photos" / "b", 6, first=6)
    index_folders([tmp_path / "photos"], tmp_path / "collection", encoder)
    return tmp_path / "collection"


@pytest.fixture
def engine(path, encoder):
    return Engine(Collection.open(path), encoder)


class LastFirst:
    """A scorer that turns the candidates' order round, and remembers what it saw."""

    calibrated = False
    to_image = Calibration(-1, 0, 0)

    def load(self):
        pass

    def fusion(self, text, tokens):
        self.seen = (text, tokens)
        return np.zeros(len(tokens), np.float32)


def test_hits_come_by_similarity(engine, path, encoder):
    results = engine.search("a dog on a beach", k=12)
    query = encoder.encode_texts(["a dog on a beach"]).embeddings[0]
    collection = Collection.open(path)
    expected = np.sort(collection.embeddings(range(12)).astype(np.float32) @ query)[::-1]
    np.testing.assert_allclose([hit.similarity for hit in results], expected, atol=1e-6)
    assert [hit.rank for hit in results] == list(range(1, 13))


def test_a_hit_says_what_and_where_it_is(engine):
    hit = engine.search("a dog", k=1)[0]
    assert Path(hit.path).is_file()
    assert (hit.width, hit.height, hit.match) == (9, 6, None)
    assert hit.score == hit.similarity


def test_the_same_query_gives_the_same_hits(engine):
    assert engine.search("a dog").hits == engine.search("a dog").hits


def test_fewer_images_than_asked_for_give_fewer_hits(engine):
    assert len(engine.search("a dog", k=1000)) == 12


def test_only_images_in_a_folder(engine, tmp_path):
    results = engine.search("a dog", k=12, below=tmp_path / "photos" / "b")
    assert len(results) == 6
    assert all(Path(hit.path).parent.name == "b" for hit in results)


def test_a_folder_of_nothing_indexed_gives_no_hits(engine, tmp_path):
    assert len(engine.search("a dog", below=tmp_path / "elsewhere")) == 0


def test_a_scorer_ranks_the_candidates_and_only_them(path, encoder):
    scorer = LastFirst()
    engine = Engine(Collection.open(path), encoder, scorer, candidates=5)
    nearest = [hit.path for hit in Engine(Collection.open(path), encoder).search("a dog", k=5)]
    results = engine.search("a dog", k=3)
    assert [hit.path for hit in results] == nearest[::-1][:3]
    text, tokens = scorer.seen
    assert tokens.shape == (5, 2, 3) and text.embeddings.shape == (1, 8)
    assert [hit.score for hit in results] == [-hit.similarity for hit in results]


def test_a_scorer_sees_the_tokens_of_the_very_images(path, encoder):
    scorer = LastFirst()
    collection = Collection.open(path)
    Engine(collection, encoder, scorer, candidates=12).search("a dog")
    _, tokens = scorer.seen
    query = encoder.encode_texts(["a dog"]).embeddings
    _, positions = collection.nearest(query, 12)
    np.testing.assert_array_equal(tokens, collection.tokens(positions[0]))


def test_more_results_than_candidates_are_all_scored(path, encoder):
    results = Engine(Collection.open(path), encoder, LastFirst(), candidates=2).search("a dog", k=7)
    similarities = [hit.similarity for hit in results]
    assert len(results) == 7 and similarities == sorted(similarities)


def test_no_candidates_are_refused(path, encoder):
    with pytest.raises(CrosslookError, match="1 or more"):
        Engine(Collection.open(path), encoder, LastFirst(), candidates=0)


class Calibrated:
    """A scorer of logits 3, 2, 1, 0, -1, ... for the candidates, nearest first."""

    calibrated = True
    to_image = Calibration(0, 1, 0)

    def load(self):
        pass

    def fusion(self, text, tokens):
        return 3.0 - np.arange(len(tokens), dtype=np.float32)


def test_a_match_is_the_probability_of_the_logit(path, encoder):
    results = Engine(Collection.open(path), encoder, Calibrated()).search("a dog", k=5)
    expected = [1 / (1 + np.exp(-logit)) for logit in (3, 2, 1, 0, -1)]
    assert [hit.match for hit in results] == pytest.approx(expected)
    assert results.best_match == pytest.approx(expected[0])


def test_what_matches_too_little_is_left_out(path, encoder):
    engine = Engine(Collection.open(path), encoder, Calibrated())
    assert len(engine.search("a dog", k=10, min_match=0.5)) == 4
    nothing = engine.search("a dog", k=10, min_match=0.99)
    assert len(nothing) == 0 and nothing.best_match == pytest.approx(1 / (1 + np.exp(-3)))


def test_without_calibration_there_is_no_match_and_nothing_is_left_out(path, encoder, engine):
    for each in (engine, Engine(Collection.open(path), encoder, LastFirst())):
        results = each.search("a dog", k=12, min_match=0.9)
        assert len(results) == 12 and results.best_match is None and results[0].match is None


class Brightest:
    """A scorer that sees the images again, and likes them bright."""

    calibrated = False
    image_size = 4

    def score_photos(self, text, photos):
        self.seen = (text, len(photos))
        return np.array([photo.pixels.mean() for photo in photos], np.float32)


def test_a_scorer_may_see_the_images_again_and_those_gone_are_counted(path, encoder, tmp_path):
    from PIL import Image

    gone, broken = tmp_path / "photos" / "a" / "000.png", tmp_path / "photos" / "b" / "007.png"
    gone.unlink()
    broken.write_bytes(b"no image any more")
    scorer = Brightest()
    results = Engine(Collection.open(path), encoder, scorer).search("a dog", k=12)
    assert scorer.seen == ("a dog", 10)
    brightness = [np.asarray(Image.open(hit.path)).mean() for hit in results]
    assert len(results) == 10 and brightness == sorted(brightness, reverse=True)
    assert results.unreadable == 2 and not {Path(hit.path) for hit in results} & {gone, broken}


def test_when_all_are_gone_nothing_is_found(path, encoder, tmp_path):
    for photo in (tmp_path / "photos").rglob("*.png"):
        photo.unlink()
    results = Engine(Collection.open(path), encoder, Brightest()).search("a dog")
    assert len(results) == 0 and results.unreadable == 12


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_a_least_match_that_is_no_probability_is_refused(engine, least):
    with pytest.raises(CrosslookError, match="0 to 1"):
        engine.search("a dog", min_match=least)


def test_a_model_without_a_scorer_cannot_explain(engine, tmp_path):
    with pytest.raises(CrosslookError, match="no scorer"):
        engine.explain("a dog", tmp_path / "photos" / "a" / "000.png")


def test_each_stage_is_timed(engine, path, encoder):
    assert set(engine.search("a dog").milliseconds) == {"encode", "search", "rows"}
    scored = Engine(Collection.open(path), encoder, LastFirst()).search("a dog")
    assert set(scored.milliseconds) == {"encode", "search", "fetch", "score", "rows"}


def test_a_query_that_is_too_long_says_so(engine):
    assert not engine.search("a dog").truncated
    assert engine.search("word " * 50).truncated


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_query_is_refused(engine, text):
    with pytest.raises(CrosslookError, match="empty"):
        engine.search(text)


@pytest.mark.parametrize("k", [0, -1])
def test_less_than_one_result_is_refused(engine, k):
    with pytest.raises(CrosslookError, match="1 or more"):
        engine.search("a dog", k=k)


def test_an_encoder_of_another_fingerprint_is_refused(path):
    with pytest.raises(CrosslookError, match="another version of fake"):
        Engine(Collection.open(path), FakeEncoder(fingerprint="0" * 16))


def test_opening_with_another_model_is_refused_with_both_names(path):
    with pytest.raises(CrosslookError, match="the model fake, not lite"):
        Engine.open(path, model="lite")


def test_the_public_names_are_there():
    assert {"Engine", "Hit", "Results", "CrosslookError"} <= set(retrieval.__all__)


@pytest.mark.parametrize(
    "what",
    ["query", "index", pytest.param("query", marks=pytest.mark.torch), pytest.param("index", marks=pytest.mark.torch)],
)
def test_nothing_heavy_is_imported(tmp_path, what):
    """Neither to search nor to index with `lite`, in a process of its own; where torch is installed, and where not."""
    write_photos(tmp_path / "photos", 2)
    script = f"""
import sys
from pathlib import Path
from retrieval.encoders import load_encoder
from retrieval.indexing.pipeline import index_folders
from cli.commands import app
index_folders([{str(tmp_path / "photos")!r}], Path({str(tmp_path / "c")!r}), load_encoder())
if {what!r} == "query":
    sys.argv[1:] = ["-i", {str(tmp_path / "c")!r}, "a dog"]
    app(standalone_mode=False)
print("LOADED", [name for name in {HEAVY!r} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "LOADED []"


class Loads(LastFirst):
    """A scorer that says when it is loaded, and cannot be used until it is."""

    def __init__(self, error=None):
        self.loaded = 0
        self.error = error

    def load(self):
        self.loaded += 1
        if self.error is not None:
            raise self.error

    def fusion(self, text, tokens):
        if self.error is not None:
            raise self.error
        assert self.loaded == 1
        return super().fusion(text, tokens)


def test_the_scorer_is_loaded_once_while_the_first_text_is_encoded(path, encoder):
    scorer = Loads()
    engine = Engine(Collection.open(path), encoder, scorer)
    assert scorer.loaded == 0
    for _ in range(2):
        assert len(engine.search("a dog"))
    assert scorer.loaded == 1


def test_what_cannot_be_loaded_is_told_by_the_search(path, encoder):
    engine = Engine(Collection.open(path), encoder, Loads(CrosslookError("the scorer is damaged")))
    for _ in range(2):
        with pytest.raises(CrosslookError, match="the scorer is damaged"):
            engine.search("a dog")


def test_many_threads_get_from_a_new_engine_what_one_thread_gets(tmp_path):
    """Folders, an ANN index, rows and failures among it; freed memory is overwritten, so that nobody reads it."""
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
