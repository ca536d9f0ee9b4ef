"""The contract of a scorer, which every implementation keeps."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.lite import HEADS
from retrieval.fusion import BySimilarity, EncodedQuery, FusionScorer, Scorer, load_scorer, score_many
from retrieval.fusion.scorer import EXPLAINER
from retrieval.images import Photo
from retrieval.query import ImagePart, Query
from tests.retrieval.made_up_scorers import MadeUpCandidates, MadeUpScorer, encoded
from tests.support import FakeEncoder

COUNT = 11
KINDS = [
    "similarity",
    "fusion",
    "fusion without explainer",
    pytest.param("fusion on torch", marks=pytest.mark.torch),
    pytest.param("blip", marks=pytest.mark.torch),
    "made up",
]


@pytest.fixture(scope="module", params=KINDS)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    if request.param == "similarity":
        return BySimilarity()
    if request.param == "made up":
        return MadeUpScorer()
    if request.param == "fusion":
        return FusionScorer(HEADS)
    if request.param == "fusion without explainer":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("model") / "scorer"
        shutil.copytree(HEADS, folder)
        (folder / EXPLAINER).unlink()
        return FusionScorer(folder)
    if request.param == "fusion on torch":
        import torch

        from retrieval.fusion.scorer_torch import DeviceScorer

        return DeviceScorer(HEADS, torch.device("cpu"))
    folder = request.getfixturevalue("tiny_blip")
    return load_scorer(FakeEncoder(), f"blip:{folder}", "cpu")


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    rng = np.random.default_rng(0)
    return [Photo(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), 60, 40, None) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def everything(photos: list[Photo]) -> tuple[EncodedQuery, MadeUpCandidates]:
    """A query and its candidates, as `lite` sees both."""
    encoder = load_encoder("lite", "cpu")
    query = encoded("a dog on the beach", encoder)
    features = encoder.encode_images([encoder.prepare(photo) for photo in photos])
    similarities = (features.embeddings @ query.features.embeddings[0]).astype(np.float32)
    return query, MadeUpCandidates(similarities, features.regions, photos)


@pytest.fixture
def query(everything: tuple[EncodedQuery, MadeUpCandidates]) -> EncodedQuery:
    return everything[0]


@pytest.fixture
def candidates(everything: tuple[EncodedQuery, MadeUpCandidates]) -> MadeUpCandidates:
    return everything[1]


def chosen(candidates: MadeUpCandidates, indices: list[int]) -> MadeUpCandidates:
    images = [candidates.images[index] for index in indices]
    return MadeUpCandidates(candidates.similarities[indices], candidates.regions()[indices], images)


def test_every_candidate_has_a_logit(scorer, query, candidates):
    logits = scorer.score(query, candidates)
    assert logits.dtype == np.float32 and logits.shape == (COUNT,) and np.isfinite(logits).all()
    assert scorer.reranks or (logits == candidates.similarities).all()


def test_the_order_of_the_candidates_does_not_matter(scorer, query, candidates):
    order = np.random.default_rng(1).permutation(COUNT).tolist()
    logits = scorer.score(query, candidates)
    np.testing.assert_allclose(scorer.score(query, chosen(candidates, order)), logits[order], rtol=1e-4, atol=1e-3)


def test_candidates_get_together_what_each_gets_alone(scorer, query, candidates):
    alone = [scorer.score(query, chosen(candidates, [index])) for index in range(COUNT)]
    np.testing.assert_allclose(np.concatenate(alone), scorer.score(query, candidates), rtol=1e-4, atol=1e-3)


def test_no_candidates_have_no_logits(scorer, query, candidates):
    for logits in (scorer.score(query, chosen(candidates, [])), *scorer.score_both_ways(query, chosen(candidates, []))):
        assert logits.dtype == np.float32 and logits.shape == (0,)


def test_both_ways_begins_with_the_score(scorer, query, candidates):
    both = scorer.score_both_ways(query, candidates)
    np.testing.assert_array_equal(both.to_image, scorer.score(query, candidates))
    assert both.to_text.dtype == np.float32 and both.to_text.shape == (COUNT,) and np.isfinite(both.to_text).all()


def test_many_queries_get_what_each_gets_alone(scorer, query, candidates):
    lists = [candidates, chosen(candidates, [2, 0]), chosen(candidates, [])]
    together = score_many(scorer, [query] * 3, lists)
    for both, item in zip(together, lists, strict=True):
        alone = scorer.score_both_ways(query, item)
        np.testing.assert_allclose(both.to_image, alone.to_image, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(both.to_text, alone.to_text, rtol=1e-4, atol=1e-3)


def test_a_photo_that_is_gone_changes_no_other_logit(scorer, query, candidates):
    without = MadeUpCandidates(candidates.similarities, candidates.regions(), [None, *candidates.images[1:]])
    logits, expected = scorer.score(query, without), scorer.score(query, candidates)
    assert np.isnan(logits[0]) or logits[0] == expected[0]
    np.testing.assert_allclose(logits[1:], expected[1:], rtol=1e-4, atol=1e-3)


def test_threads_get_what_one_gets(scorer, query, candidates):
    scorer.load()
    expected = scorer.score(query, candidates)
    with ThreadPoolExecutor(8) as threads:
        for logits in threads.map(lambda _: scorer.score(query, candidates), range(24)):
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


def test_a_query_by_image_is_scored_or_refused_in_one_line(scorer, query, candidates, photos):
    by_image = EncodedQuery(Query((ImagePart(photos[0]),)), query.features)
    try:
        assert scorer.score(by_image, candidates).shape == (COUNT,)
    except CrosslookError as error:
        assert "reads queries of one text only" in str(error) and "\n" not in str(error)


def test_an_explanation_is_of_the_same_match_or_there_is_none(scorer, query, candidates):
    evidence = scorer.explain(query, candidates.similarities[0], candidates.regions()[0])
    explains = isinstance(scorer, FusionScorer) and (scorer.folder / EXPLAINER).exists()
    assert (evidence is not None) == explains
    if evidence is not None:
        assert evidence.lost.shape == (query.features.mask.sum(), candidates.regions().shape[1])
        assert (evidence.heat >= 0).all() and evidence.heat.any()
        assert evidence.logit == pytest.approx(float(scorer.score(query, candidates)[0]), abs=0.2)  # int8 against float


def test_only_a_scorer_that_reranks_is_calibrated(scorer):
    assert isinstance(scorer.reranks, bool) and isinstance(scorer.calibrated, bool)
    assert scorer.reranks or not scorer.calibrated
