"""How good a ranking is: ranks of the relevant items, measures over them, and the intervals of their means."""

from retrieval.evaluation.metrics.blockwise_ranks import similarities, streamed_ranks
from retrieval.evaluation.metrics.intervals import Interval, bootstrap_difference, bootstrap_interval
from retrieval.evaluation.metrics.measures import first_rank, ndcg_at, recall_at, reciprocal_rank, success_at
from retrieval.evaluation.metrics.ranks import RelevantRanks, candidate_ranks, relevant_ranks
from retrieval.evaluation.metrics.relevance import Relevance, caption_relevance

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
