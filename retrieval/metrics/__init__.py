"""How good a ranking is: ranks of the relevant items, measures over them, and the intervals of their means."""

from retrieval.metrics.intervals import Interval, bootstrap_difference, bootstrap_interval
from retrieval.metrics.measures import first_rank, ndcg_at, recall_at, reciprocal_rank, success_at
from retrieval.metrics.ranks import RelevantRanks, candidate_ranks, relevant_ranks
from retrieval.metrics.relevance import Relevance, caption_relevance
from retrieval.metrics.streaming import similarities, streamed_ranks

__all__ = [
    "Interval",
    "Relevance",
    "RelevantRanks",
    "bootstrap_difference",
    "bootstrap_interval",
    "candidate_ranks",
    "caption_relevance",
    "first_rank",
    "ndcg_at",
    "recall_at",
    "reciprocal_rank",
    "relevant_ranks",
    "similarities",
    "streamed_ranks",
    "success_at",
]
