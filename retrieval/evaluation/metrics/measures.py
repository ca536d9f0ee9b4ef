"""Measures of a ranking, one value a query, from the ranks of its relevant items.

They agree, query by query, with `ir_measures` and so with trec_eval. Relevance is binary."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from retrieval.evaluation.metrics.ranks import RelevantRanks


def success_at(ranks: RelevantRanks, k: int) -> NDArray[np.float64]:
    """float64 [queries]: 1 if any relevant item is among the first k, else 0.

    Papers on image-text retrieval call it "Recall@k" or "R@k" (Karpathy and Fei-Fei 2015 onwards); ir_measures and
    trec_eval call it Success@k; others hit rate or hits@k."""
    return (first_rank(ranks) <= k).astype(np.float64)


def recall_at(ranks: RelevantRanks, k: int) -> NDArray[np.float64]:
    """float64 [queries], 0 to 1: the share of all relevant items that are among the first k (trec_eval's recall_k,
    ir_measures' R@k). The same as success where a query has one relevant item. With more than k of them, it cannot
    reach 1."""
    found = np.add.reduceat((ranks.ranks <= k).astype(np.int64), ranks.starts[:-1])
    return found / np.diff(ranks.starts)


def reciprocal_rank(ranks: RelevantRanks) -> NDArray[np.float64]:
    """float64 [queries], 0 to 1: 1 / rank of the first relevant item, 0 if there is none (trec_eval's recip_rank,
    ir_measures' RR). Its mean is the MRR (Voorhees 1999, "The TREC-8 Question Answering Track Report")."""
    return 1.0 / first_rank(ranks)


def ndcg_at(ranks: RelevantRanks, k: int = 10) -> NDArray[np.float64]:
    """float64 [queries], 0 to 1: normalised discounted cumulative gain of the first k (Järvelin and Kekäläinen 2002,
    "Cumulated gain-based evaluation of IR techniques"), as trec_eval's ndcg_cut and ir_measures' nDCG@k have it: a
    relevant item at rank r gains 1 / log2(r + 1), and the sum is divided by that of the best ranking possible."""
    gains = np.array([1.0 / math.log2(rank + 1) for rank in range(1, k + 1)] + [0.0])
    counts = np.diff(ranks.starts)
    sums, best = np.zeros(len(ranks)), np.zeros(len(ranks))
    for position in range(min(k, int(counts.max(initial=0)))):  # summed from the first rank on, as trec_eval does
        rows = np.flatnonzero(counts > position)
        at = ranks.ranks[ranks.starts[rows] + position]
        sums[rows] += gains[np.minimum(at - 1, k).astype(np.int64)]
        best[rows] += gains[position]
    return sums / best


def first_rank(ranks: RelevantRanks) -> NDArray[np.float64]:
    """float64 [queries], 1 to inf: the rank of the first relevant item, inf if there is none. Papers print its median
    and mean as MedR (or Med r) and MeanR."""
    return ranks.ranks[ranks.starts[:-1]]
