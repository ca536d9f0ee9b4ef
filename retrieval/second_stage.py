"""The second stage of a search: the logits of the candidates, of many queries together where the scorer gains by it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.fusion.base import BatchScorer, EncodedQuery, Scorer, score_many
from retrieval.fusion.candidates import CollectionCandidates

Scored = tuple[NDArray[np.float32], dict[str, float]]  # the logits of one query's candidates, and milliseconds by stage


def scored(scorer: Scorer, queries: Sequence[EncodedQuery], candidates: Sequence[CollectionCandidates]) -> list[Scored]:
    """For each query with its own candidates. The time of a scorer of many pairs is divided evenly. Raises as
    `Scorer.score` does."""
    if len(queries) == 1 or not isinstance(scorer, BatchScorer):
        return [_scored(scorer, query, images) for query, images in zip(queries, candidates, strict=True)]
    started = time.perf_counter()
    logits = score_many(scorer, queries, candidates)
    milliseconds = 1000 * (time.perf_counter() - started) / len(queries)
    return [(of_query.to_image, {"score": milliseconds}) for of_query in logits]


def _scored(scorer: Scorer, query: EncodedQuery, candidates: CollectionCandidates) -> Scored:
    if not scorer.reranks:
        return scorer.score(query, candidates), {}  # which takes no time
    started = time.perf_counter()
    logits = scorer.score(query, candidates)
    milliseconds = 1000 * (time.perf_counter() - started)
    if candidates.fetch_seconds is None:
        return logits, {"score": milliseconds}
    fetch = 1000 * candidates.fetch_seconds
    return logits, {"fetch": fetch, "score": milliseconds - fetch}
