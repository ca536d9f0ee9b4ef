"""Ranks from a matrix, and from lists of candidates."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.evaluation.metrics import Relevance, candidate_ranks, relevant_ranks

INF = float("inf")


@pytest.mark.parametrize(
    ("scores", "relevant", "ranks"),
    [
        ([0.1, 0.9, 0.5], [1], [1]),
        ([0.1, 0.9, 0.5], [0, 2], [2, 3]),
        ([0.5, 0.5, 0.5], [1], [3]),
        ([0.5, 0.5, 0.5], [0, 1], [2, 3]),
        ([0.5, 0.9, 0.5, 0.5, 0.1], [0, 1, 4], [1, 4, 5]),
        ([-INF, INF, -INF, 0.0], [0, 1], [1, 4]),
        ([0.0, -0.0], [0], [2]),
    ],
)
def test_relevant_items_take_the_last_places_of_a_tie(
    scores: list[float], relevant: list[int], ranks: list[int]
) -> None:
    assert relevant_ranks([scores], Relevance.from_lists([relevant])).ranks.tolist() == ranks


def test_the_order_in_which_relevant_items_are_named_does_not_matter() -> None:
    scores = [[0.1, 0.9, 0.5]]
    ranks, reordered = (relevant_ranks(scores, Relevance.from_lists([items])) for items in ([0, 2], [2, 0]))
    assert ranks.ranks.tolist() == reordered.ranks.tolist()


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        relevant_ranks([[0.5, np.nan]], Relevance.from_lists([[0]]))


def test_scores_for_another_number_of_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="for 2 queries"):
        relevant_ranks([[0.5]], Relevance.from_lists([[0], [0]]))


def test_candidates_that_are_all_items_rank_as_the_full_matrix_does() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 12)) / 5
    relevance = Relevance.from_lists([rng.choice(12, rng.integers(1, 5), replace=False) for _ in scores])
    shuffled = rng.permuted(np.tile(np.arange(12), (40, 1)), axis=1)
    ranks = candidate_ranks(shuffled, np.take_along_axis(scores, shuffled, axis=1), relevance)
    assert ranks.ranks.tolist() == relevant_ranks(scores, relevance).ranks.tolist()


def test_an_item_that_is_no_candidate_has_no_rank() -> None:
    ranks = candidate_ranks([[7, 3], []], [[0.1, 0.2], []], Relevance.from_lists([[3, 5], [1]]))
    assert [ranks.of(query).tolist() for query in range(2)] == [[1, INF], [INF]]


def test_candidates_and_padding_may_be_of_different_lengths() -> None:
    ranks = candidate_ranks([[7, -1, 3, -1], [1]], [[0.1, 9, 0.1, 9], [0.5]], Relevance.from_lists([[3], [1]]))
    assert ranks.ranks.tolist() == [2, 1]


def test_with_the_first_stage_behind_them_candidates_rank_as_the_whole_list_does() -> None:
    """The list that people see: the first N by the first stage in the scorer's order, then the rest. Built here as one
    row of scores, ranked by the obvious way."""
    rng = np.random.default_rng(1)
    items, top = 30, 8
    first = rng.permuted(np.tile(np.arange(items, dtype=float), (50, 1)), axis=1)
    candidates = np.argsort(-first, axis=1)[:, :top]
    scores = rng.integers(0, 4, (50, top)) / 3
    relevance = Relevance.from_lists([rng.choice(items, rng.integers(1, 6), replace=False) for _ in first])
    merged = first.copy()
    np.put_along_axis(merged, candidates, 1000 + scores, axis=1)
    ranks = candidate_ranks(candidates, scores, relevance, rest=relevant_ranks(first, relevance))
    assert ranks.ranks.tolist() == relevant_ranks(merged, relevance).ranks.tolist()


def test_a_tie_across_the_end_of_the_candidates_is_broken_pessimistically() -> None:
    relevance = Relevance.from_lists([[0, 1]])
    rest = relevant_ranks([[0.5, 0.5, 0.5, 0.5]], relevance)
    ranks = candidate_ranks([[0, 2]], [[0.9, 0.1]], relevance, rest=rest)
    assert ranks.ranks.tolist() == [1, 4]


def test_an_item_that_an_approximate_search_missed_comes_right_after_the_candidates() -> None:
    relevance = Relevance.from_lists([[0, 1]])
    rest = relevant_ranks([[0.9, 0.8, 0.7, 0.6]], relevance)
    ranks = candidate_ranks([[2, 3]], [[0.9, 0.1]], relevance, rest=rest)
    assert ranks.ranks.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("candidates", "scores", "reason"),
    [
        ([[1, 1]], [[0.1, 0.2]], "query 0: a candidate is listed twice"),
        ([[1, 2]], [[0.1]], "query 0: .* candidates with"),
        ([[1]], [[np.nan]], "not a number"),
        ([[1], [1]], [[0.1], [0.1]], "2 lists of candidates, 2 of scores, 1 queries"),
    ],
)
def test_malformed_candidates_are_refused(candidates: list[list[int]], scores: list[list[float]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        candidate_ranks(candidates, scores, Relevance.from_lists([[0]]))


def test_the_ranks_of_other_queries_are_refused_as_the_rest() -> None:
    rest = relevant_ranks([[0.5, 0.1]], Relevance.from_lists([[0, 1]]))
    with pytest.raises(ValueError, match="other queries"):
        candidate_ranks([[0]], [[0.5]], Relevance.from_lists([[0]]), rest=rest)
