"""Where words look in an image, by the embedded model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from indexes.collection import Collection
from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.engine import Engine
from retrieval.explain import explain, words_of
from retrieval.fusion import BySimilarity, EncodedQuery, Evidence, load_scorer
from retrieval.indexing.pipeline import index_folders
from retrieval.query import Query, TextPart
from retrieval.samples import gather_samples
from tests.retrieval.made_up_scorers import MadeUpScorer


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("lite", "cpu")


@pytest.fixture(scope="module")
def scorer(encoder):
    return load_scorer(encoder)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return {path.stem: path for path in gather_samples(tmp_path_factory.mktemp("samples"))}


def test_every_word_has_its_map(encoder, scorer, samples):
    explanation = explain(encoder, scorer, "a cup of coffee, on a table!", samples["coffee"])
    assert explanation.words == ("a", "cup", "of", "coffee,", "on", "a", "table!")
    assert explanation.heat.shape == (7, 7, 7) and (explanation.heat >= 0).all() and explanation.heat.max() > 0
    assert 0 < explanation.match < 1 and -1 <= explanation.similarity <= 1
    assert explanation.photo.pixels.shape == (400, 600, 3)


def test_pieces_of_a_word_are_one_word():
    text = "unbelievableness of cats"
    spans = [(0, 0), (0, 2), (2, 12), (12, 16), (17, 19), (20, 24), (0, 0)]
    words, pieces = words_of(text, spans)
    assert words == ("unbelievableness", "of", "cats") and pieces == [[1, 2, 3], [4], [5]]


def test_the_engine_explains_what_it_ranked(encoder, samples, tmp_path):
    index_folders([samples["coffee"].parent], tmp_path / "c", encoder)
    engine = Engine.open(tmp_path / "c")
    hit = engine.search("a cup of coffee", k=1)[0]
    explanation = engine.explain("a cup of coffee", hit.path)
    assert explanation.match == pytest.approx(hit.match, abs=0.02) and explanation.similarity == pytest.approx(
        hit.similarity, abs=2e-3
    )


def test_a_large_jpeg_is_explained_as_it_was_indexed(encoder, samples, tmp_path):
    """Indexing and explaining decode it at a fraction of its size."""
    (tmp_path / "photos").mkdir()
    Image.open(samples["coffee"]).convert("RGB").resize((3000, 2000)).save(tmp_path / "photos" / "large.jpg")
    index_folders([tmp_path / "photos"], tmp_path / "c", encoder)
    engine = Engine.open(tmp_path / "c")
    hit = engine.search("a cup of coffee")[0]
    explanation = engine.explain("a cup of coffee", hit.path)
    assert explanation.match == pytest.approx(hit.match, abs=2e-3) and explanation.photo.pixels.shape[1] < 3000


def test_a_turned_photo_is_explained_upright(encoder, scorer, samples, tmp_path):
    """EXIF turns a picture that lies on its side in the file; the maps are those of the upright picture."""
    upright = Image.open(samples["coffee"]).convert("RGB")
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    straight, turned = (explain(encoder, scorer, "a cup", tmp_path / f"{name}.png") for name in ("upright", "turned"))
    np.testing.assert_array_equal(straight.photo.pixels, turned.photo.pixels)
    np.testing.assert_array_equal(straight.heat, turned.heat)


@pytest.mark.parametrize("name", ["nothing.png", "text.png"])
def test_what_cannot_be_read_is_one_line(encoder, scorer, tmp_path, name):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(CrosslookError, match=name):
        explain(encoder, scorer, "a dog", tmp_path / name)


@pytest.mark.parametrize("text", ["", " ", "\u200b"])
def test_a_text_without_words_is_refused(encoder, scorer, samples, text):
    with pytest.raises(CrosslookError, match="no words"):
        explain(encoder, scorer, text, samples["coffee"])


class Telling(MadeUpScorer):
    """Gives evidence that is known. tokens: of the last query."""

    tokens: int

    def explain(self, query: EncodedQuery, similarity: np.float32, regions: NDArray[Any]) -> Evidence:
        self.tokens = int(query.features.mask.sum())
        lost = np.arange(self.tokens * len(regions), dtype=np.float32).reshape(self.tokens, -1) - 60
        return Evidence(0.5, 2.0, lost)


def test_the_heat_of_a_word_is_the_sum_of_what_its_tokens_would_lose(encoder, samples):
    text = "unbelievableness of cats"
    scorer = Telling()
    explanation = explain(encoder, scorer, text, samples["coffee"])
    words, tokens_of_words = words_of(text, encoder.token_spans(text))
    heat = np.maximum(np.arange(scorer.tokens * 49, dtype=np.float32).reshape(scorer.tokens, 7, 7) - 60, 0)
    assert explanation.words == words and max(len(tokens) for tokens in tokens_of_words) > 1
    for word, tokens in enumerate(tokens_of_words):
        np.testing.assert_allclose(explanation.heat[word], sum(heat[token] for token in tokens))


def test_the_engine_explains_by_the_scorer_it_ranks_by(encoder, samples, tmp_path):
    index_folders([samples["coffee"].parent], tmp_path / "c", encoder)
    scorer = Telling()
    with Engine(Collection.open(tmp_path / "c"), encoder, scorer) as engine:
        query = Query((TextPart("a cup of coffee"),))
        assert engine.explain(query, samples["coffee"]).match == pytest.approx(1 / (1 + np.exp(-0.5)))
        assert scorer.tokens == 6  # with the beginning and the end
        of_text = engine.explain("a cup of coffee", samples["coffee"])
        np.testing.assert_array_equal(of_text.heat, engine.explain(query, samples["coffee"]).heat)
        with pytest.raises(CrosslookError, match=r"^an explanation reads queries of one text only[^\n]*$"):
            engine.explain(Query((TextPart("a"), TextPart("b"))), samples["coffee"])


def test_an_engine_that_does_not_rerank_explains_by_the_models_own_scorer(encoder, scorer, samples, tmp_path):
    index_folders([samples["coffee"].parent], tmp_path / "c", encoder)
    with Engine(Collection.open(tmp_path / "c"), encoder) as engine:
        explanation = engine.explain("a cup of coffee", samples["coffee"])
    expected = explain(encoder, scorer, "a cup of coffee", samples["coffee"])
    np.testing.assert_array_equal(explanation.heat, expected.heat)


@pytest.mark.parametrize("scorer", [BySimilarity(), MadeUpScorer()])
def test_a_scorer_that_cannot_tell_says_which_can(encoder, samples, scorer):
    with pytest.raises(CrosslookError, match=r"^[^\n]* scorer [^\n]*: use the model lite[^\n]*$"):
        explain(encoder, scorer, "a cup", samples["coffee"])
