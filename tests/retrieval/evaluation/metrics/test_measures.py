"""Every measure equals that of `ir_measures`, query by query and to the last bit.

trec_eval, which computes them there, breaks ties by a rule of its own: by score, then by the name of the document,
descending. Here ties are broken pessimistically, so the rankings are handed over in our order, with distinct scores."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG
from numpy.typing import NDArray

from retrieval.evaluation.metrics import (
    Relevance,
    RelevantRanks,
    candidate_ranks,
    first_rank,
    measure_named,
    ndcg_at,
    recall_at,
    reciprocal_rank,
    relevant_ranks,
    reported_measures,
    success_at,
)

CUTOFFS = (1, 2, 5, 10)


class Ranking(NamedTuple):
    """A list of items with scores for one query, and the items that answer it, listed or not."""

    items: list[int]
    scores: list[float]
    relevant: list[int]


@st.composite
def _rankings(draw: st.DrawFn, all_listed: bool = False) -> Ranking:
    count = draw(st.integers(1, 40))
    listed = draw(st.permutations(range(count)))
    if not all_listed:
        listed = listed[: draw(st.integers(0, count))]
    scores = draw(
        st.lists(st.integers(0, draw(st.sampled_from([0, 3, 1000]))), min_size=len(listed), max_size=len(listed))
    )
    relevant = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=min(count, 15), unique=True))
    return Ranking(list(listed), [score / 7 for score in scores], relevant)


def _of_ir_measures(rankings: list[Ranking]) -> dict[Any, list[float]]:
    """Measure -> one value for each query."""
    qrels = {str(query): {str(item): 1 for item in ranking.relevant} for query, ranking in enumerate(rankings)}
    run = {}
    for query, (items, scores, relevant) in enumerate(rankings):
        order = sorted(range(len(items)), key=lambda i: (-scores[i], items[i] in relevant))
        run[str(query)] = {str(items[i]): float(len(items) - place) for place, i in enumerate(order)}
    measures = [RR, nDCG @ 10, *(Success @ k for k in CUTOFFS), *(R @ k for k in CUTOFFS)]
    values: dict[Any, list[float]] = {measure: [np.nan] * len(rankings) for measure in measures}
    for metric in ir_measures.iter_calc(measures, qrels, run):
        values[metric.measure][int(metric.query_id)] = metric.value
    return values


def _of_ours(ranks: RelevantRanks) -> dict[Any, NDArray[np.float64]]:
    successes = {Success @ k: success_at(ranks, k) for k in CUTOFFS}
    recalls = {R @ k: recall_at(ranks, k) for k in CUTOFFS}
    return {RR: reciprocal_rank(ranks), nDCG @ 10: ndcg_at(ranks, 10), **successes, **recalls}


def _as_lists(values: dict[Any, NDArray[np.float64]]) -> dict[Any, list[float]]:
    return {measure: column.tolist() for measure, column in values.items()}


@settings(max_examples=150, deadline=None)
@given(st.lists(_rankings(), min_size=1, max_size=8))
def test_measures_of_candidates_equal_ir_measures(rankings: list[Ranking]) -> None:
    relevance = Relevance.from_lists([ranking.relevant for ranking in rankings])
    ranks = candidate_ranks([r.items for r in rankings], [r.scores for r in rankings], relevance)
    assert _as_lists(_of_ours(ranks)) == _of_ir_measures(rankings)


@settings(max_examples=50, deadline=None)
@given(_rankings(all_listed=True))
def test_measures_of_a_full_matrix_equal_ir_measures(ranking: Ranking) -> None:
    scores = np.empty((1, len(ranking.items)))
    scores[0, ranking.items] = ranking.scores
    ranks = relevant_ranks(scores, Relevance.from_lists([ranking.relevant]))
    assert _as_lists(_of_ours(ranks)) == _of_ir_measures([ranking])


def test_measures_equal_ir_measures_on_a_thousand_long_rankings() -> None:
    rng = np.random.default_rng(0)
    rankings = [
        Ranking(
            rng.choice(300, 100, replace=False).tolist(),
            (rng.integers(0, 50, 100) / 50).tolist(),
            rng.choice(300, rng.integers(1, 40), replace=False).tolist(),
        )
        for _ in range(1000)
    ]
    relevance = Relevance.from_lists([ranking.relevant for ranking in rankings])
    ranks = candidate_ranks([r.items for r in rankings], [r.scores for r in rankings], relevance)
    assert _as_lists(_of_ours(ranks)) == _of_ir_measures(rankings)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_ndcg_at_any_cutoff_equals_ir_measures(k: int) -> None:
    rng = np.random.default_rng(k)
    relevant = [rng.choice(60, 25, replace=False).tolist() for _ in range(50)]
    ranks = relevant_ranks(-np.tile(np.arange(60.0), (50, 1)), Relevance.from_lists(relevant))
    qrels = {str(query): {str(item): 1 for item in items} for query, items in enumerate(relevant)}
    run = {str(query): {str(item): 60.0 - item for item in range(60)} for query in range(50)}
    expected = {int(metric.query_id): metric.value for metric in ir_measures.iter_calc([nDCG @ k], qrels, run)}
    assert dict(enumerate(ndcg_at(ranks, k).tolist())) == expected


def test_a_query_that_finds_nothing_scores_zero_and_has_no_rank() -> None:
    ranks = candidate_ranks([[]], [[]], Relevance.from_lists([[0, 1]]))
    values = (success_at(ranks, 10), recall_at(ranks, 10), reciprocal_rank(ranks), ndcg_at(ranks), first_rank(ranks))
    assert [value.tolist() for value in values] == [[0], [0], [0], [0], [np.inf]]


RANKS = relevant_ranks([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]], Relevance.from_lists([[0], [1, 2]]))


@pytest.mark.parametrize(
    ("name", "value", "scale"),
    [
        ("R@1", 0.5, 100),
        ("recall@2", 0.75, 100),
        ("MRR", 0.75, 100),
        ("nDCG@10", (1 + (1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3))) / 2, 100),
        ("median rank", 1.5, 1),
        ("mean rank", 1.5, 1),
    ],
)
def test_a_measure_is_known_by_its_printed_name_with_its_unit(name: str, value: float, scale: int) -> None:
    measure = measure_named(name)
    assert measure.value(RANKS) == pytest.approx(value)
    assert (measure.name, measure.scale, measure.higher_is_better) == (name, scale, scale == 100)


@pytest.mark.parametrize("name", ["", "R", "R@", "R@0", "R@-1", "R@N", "MRR@5", "rank"])
def test_a_name_of_no_measure_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no measure is named"):
        measure_named(name)


def test_every_reported_measure_is_known_by_its_name() -> None:
    names = [measure.name for measure in reported_measures((1, 5), several_relevant=True)]
    assert names == ["R@1", "R@5", "recall@1", "recall@5", "MRR", "nDCG@10", "median rank", "mean rank"]
    assert [measure_named(name).name for name in names] == names
    assert "recall@1" not in [measure.name for measure in reported_measures((1, 5), several_relevant=False)]
