"""Measures of a ranking: one value per query, from the ranks of its relevant items.

The functions agree, query by query and to the last bit, with `ir_measures`, which computes them with trec_eval.
Relevance is binary. A `Measure` is such a function with the name, the unit and the statistic it is reported by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.evaluation.metrics.intervals import Statistic
from retrieval.evaluation.metrics.ranks import RelevantRanks

Unit = Literal["share", "rank"]


@dataclass(frozen=True)
class Measure:
    """A measure as it is reported.

    name: as printed, and its key in the JSON record. per_query: float64 [queries] from the ranks. unit: "share", from 0
    to 1, higher is better; or "rank", from 1 to inf, lower is better. statistic: what sums up the queries."""

    name: str
    per_query: Callable[[RelevantRanks], NDArray[np.float64]]
    unit: Unit = "share"
    statistic: Statistic = "mean"

    @property
    def higher_is_better(self) -> bool:
        return self.unit == "share"

    @property
    def scale(self) -> int:
        """What a value is multiplied by for people: shares are printed in percent, ranks as they are."""
        return 100 if self.unit == "share" else 1

    def value(self, ranks: RelevantRanks) -> float:
        """The statistic over all queries."""
        values = self.per_query(ranks)
        return float(np.mean(values) if self.statistic == "mean" else np.median(values))


def measure_named(name: str) -> Measure:
    """The measure of a printed name: R@k, recall@k or nDCG@k with any k from 1, MRR, "median rank" or "mean rank".

    Raises `ValueError` for any other name."""
    kind, _, cutoff = name.partition("@")
    if kind in AT_K and cutoff.isdecimal() and int(cutoff) >= 1:
        return Measure(name, partial(AT_K[kind], k=int(cutoff)))
    for measure in WITHOUT_K:
        if measure.name == name:
            return measure
    raise ValueError(f"no measure is named {name!r}")


def reported_measures(ks: Sequence[int], several_relevant: bool) -> list[Measure]:
    """The measures of a report, in its order.

    several_relevant: whether some query has more than one relevant item. Only then recall@k (the share of them among
    the first k) differs from R@k (whether any is), and is reported beside it."""
    names = [f"R@{k}" for k in ks]
    names += [f"recall@{k}" for k in ks] if several_relevant else []
    return [measure_named(name) for name in (*names, "MRR", "nDCG@10", "median rank", "mean rank")]


def success_at(ranks: RelevantRanks, k: int) -> NDArray[np.float64]:
    """float64 [queries]: 1 if any relevant item is among the first k, else 0.

    Papers on image-text retrieval call it "Recall@k" or "R@k" (Karpathy and Fei-Fei 2015 onwards); ir_measures and
    trec_eval call it Success@k; others hit rate or hits@k."""
    return (first_rank(ranks) <= k).astype(np.float64)


def recall_at(ranks: RelevantRanks, k: int) -> NDArray[np.float64]:
    """float64 [queries], 0 to 1: the share of all relevant items that are among the first k (trec_eval's recall_k,
    ir_measures' R@k). It equals `success_at` for a query with one relevant item. It stays below 1 for a query with more
    than k of them."""
    retrieved = np.add.reduceat((ranks.ranks <= k).astype(np.int64), ranks.starts[:-1])
    return retrieved / np.diff(ranks.starts)


def reciprocal_rank(ranks: RelevantRanks) -> NDArray[np.float64]:
    """float64 [queries], 0 to 1: 1 / rank of the first relevant item, 0 if there is none (trec_eval's recip_rank,
    ir_measures' RR). Its mean is the MRR (Voorhees 1999, "The TREC-8 Question Answering Track Report")."""
    return 1.0 / first_rank(ranks)


def ndcg_at(ranks: RelevantRanks, k: int = 10) -> NDArray[np.float64]:
    """float64 [queries], 0 to 1: normalised discounted cumulative gain of the first k (Järvelin and Kekäläinen 2002,
    "Cumulated gain-based evaluation of IR techniques"), as in trec_eval's ndcg_cut and ir_measures' nDCG@k.

    nDCG@k = DCG@k / IDCG@k, where DCG@k is the sum of 1 / log2(r + 1) over the ranks r <= k of relevant items, and
    IDCG@k is the DCG@k of the best possible ranking."""
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


AT_K: dict[str, Callable[..., NDArray[np.float64]]] = {"R": success_at, "recall": recall_at, "nDCG": ndcg_at}
WITHOUT_K = (
    Measure("MRR", reciprocal_rank),
    Measure("median rank", first_rank, "rank", "median"),
    Measure("mean rank", first_rank, "rank"),
)
