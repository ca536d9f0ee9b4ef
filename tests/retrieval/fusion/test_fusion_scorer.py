"""The trained scorer: what its logits are made of, and its evidence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from retrieval.encoders import load_encoder
from retrieval.encoders.lite import HEADS
from retrieval.fusion import Evidence, FusionScorer
from tests.retrieval.made_up_scorers import MadeUpCandidates, encoded


@pytest.fixture(scope="module")
def candidates():
    regions = np.random.default_rng(0).integers(-127, 128, (5, 49, 256)).astype(np.int8)
    return MadeUpCandidates([0.1, 0.3, 0.2, 0.4, 0.0], regions)


@pytest.mark.parametrize("text", ["a dog", "a dog runs along the beach beside a boy"])
def test_each_direction_has_the_weights_that_were_fitted_for_it(candidates, text):
    scorer, query = FusionScorer(HEADS), encoded(text, load_encoder("lite", "cpu"))
    fusion = scorer.fusion(query.features, candidates.regions())
    weights = json.loads((HEADS / "config.json").read_text())["calibration"]
    length = query.features.mask.sum()

    def logits(a, b, c, d):
        return a * candidates.similarities + b * fusion + c + d * np.log(length)

    both = scorer.score_both_ways(query, candidates)
    np.testing.assert_allclose(both.to_image, logits(**weights["to_image"]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(both.to_text, logits(**weights["to_text"]), rtol=1e-5, atol=1e-5)
    assert weights["to_text"]["d"] > 0 and fusion.std() > 0 and (both.to_image != both.to_text).all()


def test_heat_is_what_speaks_for_a_match_and_not_what_speaks_against():
    lost = np.array([[0.5, -0.25], [0.0, -3.0]], np.float32)
    np.testing.assert_array_equal(Evidence(1.0, 2.0, lost).heat, [[0.5, 0.0], [0.0, 0.0]])
