"""How good is a ranking?

In: scores or embeddings of queries and items, and which items are relevant. Out: the ranks of the relevant items, the
measures over them (R@k, MRR, nDCG, ...), and bootstrap intervals."""

from retrieval.evaluation.metrics.blockwise_ranks import similarities, streamed_ranks
from retrieval.evaluation.metrics.intervals import Interval, bootstrap_difference, bootstrap_interval
from retrieval.evaluation.metrics.measures import (
    Measure,
    first_rank,
    measure_named,
    ndcg_at,
    recall_at,
    reciprocal_rank,
    reported_measures,
    success_at,
)
from retrieval.evaluation.metrics.ranks import RelevantRanks, candidate_ranks, relevant_ranks
from retrieval.evaluation.metrics.relevance import Relevance, caption_relevance

__all__ = [
    "Interval",
    "Measure",
    "Relevance",
    "RelevantRanks",
    "bootstrap_difference",
    "bootstrap_interval",
    "candidate_ranks",
    "caption_relevance",
    "first_rank",
    "measure_named",
    "ndcg_at",
    "recall_at",
    "reciprocal_rank",
    "relevant_ranks",
    "reported_measures",
    "similarities",
    "streamed_ranks",
    "success_at",
]
