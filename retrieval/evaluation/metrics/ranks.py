"""The ranks at which a system puts the relevant items of a query: all that the measures need of a ranking.

Ties are broken pessimistically: of items with the same score, the relevant ones take the last places. So no measure can
gain from a score that does not tell items apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieval.evaluation.metrics.relevance import Relevance


@dataclass(frozen=True)
class RelevantRanks:
    """The ranks of the relevant items of query i are `ranks[starts[i]:starts[i + 1]]`, ascending.

    starts: int64 [queries + 1]. ranks: float64 [total], counted from 1; inf for an item that the system did not
    return."""

    starts: NDArray[np.int64]
    ranks: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, query: int) -> NDArray[np.float64]:
        return self.ranks[self.starts[query] : self.starts[query + 1]]


def relevant_ranks(scores: ArrayLike, relevance: Relevance) -> RelevantRanks:
    """The ranks from a full matrix of scores, [queries, items], higher is better: the obvious way, for small matrices.

    Raises `ValueError` for a score that is nan, and for a shape that does not fit."""
    matrix = _without_nan(np.asarray(scores))
    if matrix.ndim != 2 or len(matrix) != len(relevance):
        raise ValueError(f"scores of shape {matrix.shape} for {len(relevance)} queries")
    ranks = np.empty(len(relevance.items))
    for query, row in enumerate(matrix):
        is_relevant = np.zeros(len(row), dtype=bool)
        is_relevant[relevance.of(query)] = True
        order = _pessimistic_order(row, is_relevant)
        ranks[relevance.starts[query] : relevance.starts[query + 1]] = np.flatnonzero(is_relevant[order]) + 1
    return RelevantRanks(relevance.starts, ranks)


def candidate_ranks(
    candidates: Sequence[ArrayLike] | NDArray[Any],
    scores: Sequence[ArrayLike] | NDArray[Any],
    relevance: Relevance,
    rest: RelevantRanks | None = None,
) -> RelevantRanks:
    """The ranks from lists of candidates, in any order, with their scores: what a re-ranker returns for the top N of a
    query.

    candidates, scores: one list per query, which may differ in length, or [queries, N]. Negative items are padding.
    rest: the ranks under the first stage, which chose the candidates. Without it, a relevant item that is no candidate
    has the rank inf. With it, such an item has the rank it holds in the list that people see: the candidates as
    re-ranked, then all other items as the first stage ranks them. An item that `rest` ranks among the candidates but
    an approximate search missed comes right after them.

    Raises `ValueError` for a score that is nan, for a candidate that is listed twice, and for lengths that differ."""
    if not len(candidates) == len(scores) == len(relevance):
        raise ValueError(f"{len(candidates)} lists of candidates, {len(scores)} of scores, {len(relevance)} queries")
    if rest is not None and not np.array_equal(rest.starts, relevance.starts):
        raise ValueError("rest is about other queries")
    ranks = np.full(len(relevance.items), np.inf)
    for query, (listed, listed_scores) in enumerate(zip(candidates, scores, strict=True)):
        items, item_scores = _listed(query, listed, listed_scores)
        is_relevant = np.isin(items, relevance.of(query))
        listed_ranks = np.flatnonzero(is_relevant[_pessimistic_order(item_scores, is_relevant)]) + 1
        start, end = int(relevance.starts[query]), int(relevance.starts[query + 1])
        missing = start + len(listed_ranks)
        ranks[start:missing] = listed_ranks
        if rest is not None:
            ranks[missing:end] = np.maximum(rest.ranks[missing:end], len(items) + 1 + np.arange(end - missing))
    return RelevantRanks(relevance.starts, ranks)


def _listed(query: int, listed: ArrayLike, listed_scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.generic]]:
    items = np.asarray(listed, dtype=np.int64)
    scores = np.asarray(listed_scores)
    if items.shape != scores.shape or items.ndim != 1:
        raise ValueError(f"query {query}: {items.shape} candidates with {scores.shape} scores")
    items, scores = items[items >= 0], _without_nan(scores[items >= 0])
    if len(np.unique(items)) < len(items):
        raise ValueError(f"query {query}: a candidate is listed twice")
    return items, scores


def _pessimistic_order(scores: NDArray[np.generic], is_relevant: NDArray[np.bool_]) -> NDArray[np.intp]:
    """int [items]: best score first; of equal scores, items that are not relevant first."""
    return np.lexsort((~is_relevant, scores))[::-1]


def _without_nan(scores: NDArray[np.generic]) -> NDArray[np.generic]:
    if np.any(np.isnan(scores)):
        raise ValueError("a score is not a number, so its item has no rank")
    return scores
