"""The query engine, over a collection made by the pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import retrieval
from indexes.collection import Collection
from indexes.errors import CrosslookError
from retrieval.engine import Engine
from retrieval.images import Photo
from retrieval.query import ImagePart, Query, TextPart
from tests.retrieval.made_up_scorers import Brightest, Calibrated, LastFirst
from tests.support import FakeEncoder, write_photos

HEAVY = ("torch", "torchvision", "timm", "transformers", "open_clip", "sentence_transformers")


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
    results = engine.search("a dog", k=12, in_folder=tmp_path / "photos" / "b")
    assert len(results) == 6
    assert all(Path(hit.path).parent.name == "b" for hit in results)


def test_a_folder_of_nothing_indexed_gives_no_hits(engine, tmp_path):
    assert len(engine.search("a dog", in_folder=tmp_path / "elsewhere")) == 0


def test_a_scorer_ranks_the_candidates_and_only_them(path, encoder):
    scorer = LastFirst()
    engine = Engine(Collection.open(path), encoder, scorer, candidates=5)
    nearest = [hit.path for hit in Engine(Collection.open(path), encoder).search("a dog", k=5)]
    results = engine.search("a dog", k=3)
    assert [hit.path for hit in results] == nearest[::-1][:3]
    query, regions = scorer.last_call
    assert regions.shape == (5, 2, 3) and query.features.embeddings.shape == (1, 8)
    assert [hit.score for hit in results] == [-hit.similarity for hit in results]


def test_a_scorer_sees_the_tokens_of_the_very_images(path, encoder):
    scorer = LastFirst()
    collection = Collection.open(path)
    Engine(collection, encoder, scorer, candidates=12).search("a dog")
    _, regions = scorer.last_call
    query = encoder.encode_texts(["a dog"]).embeddings
    _, positions = collection.nearest(query, 12)
    np.testing.assert_array_equal(regions, collection.regions(positions[0]))


def test_more_results_than_candidates_are_all_scored(path, encoder):
    results = Engine(Collection.open(path), encoder, LastFirst(), candidates=2).search("a dog", k=7)
    similarities = [hit.similarity for hit in results]
    assert len(results) == 7 and similarities == sorted(similarities)


def test_no_candidates_are_refused(path, encoder):
    with pytest.raises(CrosslookError, match="1 or more"):
        Engine(Collection.open(path), encoder, LastFirst(), candidates=0)


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
    for uncalibrated in (engine, Engine(Collection.open(path), encoder, LastFirst())):
        results = uncalibrated.search("a dog", k=12, min_match=0.9)
        assert len(results) == 12 and results.best_match is None and results[0].match is None


def test_a_scorer_may_see_the_images_again_and_those_gone_are_counted(path, encoder, tmp_path):
    from PIL import Image

    gone, broken = tmp_path / "photos" / "a" / "000.png", tmp_path / "photos" / "b" / "007.png"
    gone.unlink()
    broken.write_bytes(b"no image any more")
    scorer = Brightest()
    results = Engine(Collection.open(path), encoder, scorer).search("a dog", k=12)
    assert scorer.last_call == ("a dog", 10)
    brightness = [np.asarray(Image.open(hit.path)).mean() for hit in results]
    assert len(results) == 10 and brightness == sorted(brightness, reverse=True)
    assert results.unreadable == 2 and not {Path(hit.path) for hit in results} & {gone, broken}


def test_when_all_are_gone_nothing_is_found(path, encoder, tmp_path):
    for photo in (tmp_path / "photos").rglob("*.png"):
        photo.unlink()
    results = Engine(Collection.open(path), encoder, Brightest()).search("a dog")
    assert len(results) == 0 and results.unreadable == 12


@pytest.mark.parametrize("min_match", [-0.1, 1.1, float("nan")])
def test_a_least_match_that_is_no_probability_is_refused(engine, min_match):
    with pytest.raises(CrosslookError, match="0 to 1"):
        engine.search("a dog", min_match=min_match)


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
    names = {"Engine", "Query", "Hit", "Results", "Scorer", "Explanation", "CrosslookError"}
    assert names == set(retrieval.__all__) and all(hasattr(retrieval, name) for name in names)


@pytest.mark.parametrize(
    "what",
    ["query", "index", pytest.param("query", marks=pytest.mark.torch), pytest.param("index", marks=pytest.mark.torch)],
)
def test_nothing_heavy_is_imported(tmp_path, what):
    """Neither to search nor to index with `lite`, in a new process; with torch installed, and without."""
    write_photos(tmp_path / "photos", 2)
    script = f"""
import sys
from pathlib import Path
from retrieval.encoders import load_encoder
from retrieval.indexing.pipeline import index_folders
from retrieval.query import ImagePart, Query, TextPart
from tests.retrieval.made_up_scorers import Brightest, Calibrated, LastFirst, MadeUpScorer
from retrieval.engine import Engine
index_folders([{str(tmp_path / "photos")!r}], Path({str(tmp_path / "c")!r}), load_encoder())
if {what!r} == "query":
    Engine.open({str(tmp_path / "c")!r}).search("a dog")
print("LOADED", [name for name in {HEAVY!r} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "LOADED []"


def test_queries_that_the_encoder_cannot_embed_are_one_line(engine):
    photo = Photo(np.zeros((4, 4, 3), np.uint8), 4, 4, None)
    text = TextPart("a dog")
    for parts in ((ImagePart(photo),), (text, ImagePart(photo)), (text, text), (TextPart("a dog", 0.5),)):
        with pytest.raises(CrosslookError, match=r"^the model fake reads queries of one text only[^\n]*$"):
            engine.search(Query(parts))
    assert engine.search(Query((text,))).hits == engine.search("a dog").hits


def test_several_queries_get_what_each_gets_alone(engine):
    texts = ["a dog", "a cat on a beach", "a dog"]
    assert [results.hits for results in engine.search_many(texts)] == [engine.search(text).hits for text in texts]
    assert engine.search_many([]) == []


def test_what_is_no_query_or_no_list_of_them_is_refused_in_one_line(engine):
    with pytest.raises(CrosslookError, match=r"^a text is not a list of queries: [^\n]*$"):
        engine.search_many("dog")
    for search in (lambda: engine.search(5), lambda: engine.search_many(["a dog", None])):
        with pytest.raises(CrosslookError, match=r"^a query is a text or a Query, not [^\n]*$"):
            search()
