"""Scorers of many pairs at once, against those of one query at a time."""

from __future__ import annotations

from indexes.collection import Collection
from retrieval.engine import Engine
from tests.retrieval.made_up_scorers import ManyPairs, TwoWayScorer
from tests.support import FakeEncoder

TEXTS = ["a cat", "two dogs on a beach", "a red house"]


def test_a_batch_is_scored_together_and_its_results_are_those_of_queries_one_by_one(collection):
    many = ManyPairs()
    with Engine(Collection.open(collection), FakeEncoder(), many) as together:
        results = together.search_many(TEXTS, 7)
        assert many.batches == [3]
        with Engine(Collection.open(collection), FakeEncoder(), TwoWayScorer()) as one_by_one:
            expected = [one_by_one.search(text, 7) for text in TEXTS]
        assert [of_text.hits for of_text in results] == [of_text.hits for of_text in expected]
        assert len({of_text.milliseconds["score"] for of_text in results}) == 1
        assert "fetch" not in results[0].milliseconds and "fetch" in expected[0].milliseconds
        together.search(TEXTS[0])
    assert many.batches == [3], "one query is scored by itself"
