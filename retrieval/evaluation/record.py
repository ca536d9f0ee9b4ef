"""Figures of an evaluation with their intervals, as the JSON record that `search evaluate` writes, and two such records
compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.evaluation.evaluate import Direction, Evaluation
from retrieval.evaluation.metrics import (
    Interval,
    RelevantRanks,
    bootstrap_difference,
    bootstrap_interval,
    first_rank,
    ndcg_at,
    recall_at,
    reciprocal_rank,
    success_at,
)
from retrieval.evaluation.metrics.intervals import Statistic

KS = (1, 5, 10)
FORMAT = 1
DIRECTIONS = ("text_to_image", "image_to_text")
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Measure:
    """name: as printed and in JSON. of: the value of each query, float64 [queries], from its ranks. share: from 0 to 1,
    higher is better; otherwise a rank, from 1, lower is better."""

    name: str
    of: Callable[[RelevantRanks], NDArray[np.float64]]
    statistic: Statistic = "mean"
    share: bool = True


def measures(ks: Sequence[int], several: bool) -> list[Measure]:
    """The measures to print. several: some query has more than one right item, so that recall@k (the share of them in
    the first k) is another figure than R@k (whether any is, which papers call recall)."""
    found = [Measure(f"R@{k}", lambda ranks, k=k: success_at(ranks, k)) for k in ks]  # type: ignore[misc]
    if several:
        found += [Measure(f"recall@{k}", lambda ranks, k=k: recall_at(ranks, k)) for k in ks]  # type: ignore[misc]
    return [
        *found,
        Measure("MRR", reciprocal_rank),
        Measure("nDCG@10", ndcg_at),
        Measure("median rank", first_rank, "median", share=False),
        Measure("mean rank", first_rank, share=False),
    ]


def record(evaluation: Evaluation, ks: Sequence[int] = KS) -> dict[str, Any]:
    """The stable, documented JSON record. Fractions are from 0 to 1; what does not exist is null."""
    seen = {name: getattr(evaluation, name) for name in DIRECTIONS}
    return {
        "format": FORMAT,
        **{name: _direction_record(direction, ks, evaluation.candidates) for name, direction in seen.items()},
        "latency_ms": {
            stage: {f"p{rank}": float(np.percentile(taken, rank)) for rank in PERCENTILES}
            for stage, taken in evaluation.milliseconds.items()
        },
        "ann_recall": evaluation.ann_recall,
        "images": len(evaluation.images),
        "captions": len(evaluation.texts),
        "left_out": len(evaluation.left_out),
        "candidates": evaluation.candidates,
        "model": evaluation.model,
        "fingerprint": evaluation.fingerprint,
        "set": evaluation.checksum,
        "queries": {name: _queries_record(direction) for name, direction in seen.items()},
    }


def _direction_record(direction: Direction, ks: Sequence[int], candidates: int | None) -> dict[str, Any]:
    images = direction.image_of_query
    chosen = measures(ks, _several(direction.base))
    base = _intervals(chosen, direction.base, images)
    reranked = gain = ceiling = None
    if direction.reranked is not None and candidates is not None:
        after = direction.reranked
        reranked = _intervals(chosen, after, images)
        gain = {each.name: _interval_record(_difference(each, direction.base, after, images)) for each in chosen}
        ceiling = _interval_record(bootstrap_interval(success_at(direction.base, candidates), images))
    return {"base": base, "reranked": reranked, "gain": gain, "ceiling": ceiling}


def _intervals(
    chosen: Sequence[Measure], ranks: RelevantRanks, images: NDArray[np.int64]
) -> dict[str, dict[str, float | None]]:
    return {
        measure.name: _interval_record(bootstrap_interval(measure.of(ranks), images, statistic=measure.statistic))
        for measure in chosen
    }


def _difference(measure: Measure, before: RelevantRanks, after: RelevantRanks, images: NDArray[np.int64]) -> Interval:
    return bootstrap_difference(measure.of(before), measure.of(after), images, statistic=measure.statistic)


def _value(measure: Measure, ranks: RelevantRanks) -> float:
    values = measure.of(ranks)
    return float(np.mean(values) if measure.statistic == "mean" else np.median(values))


def _several(ranks: RelevantRanks) -> bool:
    return bool(np.diff(ranks.starts).max(initial=0) > 1)


def _interval_record(interval: Interval) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in interval._asdict().items()}


def _queries_record(direction: Direction) -> dict[str, Any]:
    """The ranks of the relevant items of every query, so that two evaluations can be compared query by query."""
    return {
        "image": direction.image_of_query.tolist(),
        "base": _ranks_record(direction.base),
        "reranked": None if direction.reranked is None else _ranks_record(direction.reranked),
    }


def _ranks_record(ranks: RelevantRanks) -> list[list[int]]:
    return [ranks.of(query).astype(int).tolist() for query in range(len(ranks))]


@dataclass(frozen=True)
class Comparison:
    """One measure of two evaluations, as their users see it (re-ranked where there is a scorer), and the paired
    difference, second minus first, with its interval."""

    direction: str
    measure: Measure
    first: float
    second: float
    difference: Interval


def compare(first: Path, second: Path, ks: Sequence[int] = KS) -> list[Comparison]:
    """Paired differences between two records of the same images and captions.

    Raises `CrosslookError` where a file is no such record, or they are about different sets."""
    before, after = read_record(first), read_record(second)
    if before["set"] != after["set"]:
        raise CrosslookError(
            f"{first} and {second} are about different images or captions, so their queries cannot be paired: "
            "evaluate both on the same set"
        )
    found = []
    for direction in DIRECTIONS:
        images = np.array(before["queries"][direction]["image"], dtype=np.int64)
        one, other = _seen_ranks(before, direction), _seen_ranks(after, direction)
        for measure in measures(ks, _several(one)):
            difference = _difference(measure, one, other, images)
            found.append(Comparison(direction, measure, _value(measure, one), _value(measure, other), difference))
    return found


def read_record(path: Path) -> dict[str, Any]:
    """A record as `search evaluate --json` writes it. Raises `CrosslookError` when it is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        ranks = [_seen_ranks(found, direction) for direction in DIRECTIONS]
        images = [found["queries"][direction]["image"] for direction in DIRECTIONS]
        if any(len(rank) != len(image) for rank, image in zip(ranks, images, strict=True)):
            raise ValueError("its queries do not agree")
        found["set"]
    except OSError as error:
        raise CrosslookError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CrosslookError(
            f"{path} is not a record of an evaluation: make one with `search evaluate --json`"
        ) from error
    return found


def _seen_ranks(found: dict[str, Any], direction: str) -> RelevantRanks:
    queries = found["queries"][direction]
    lists = queries["base"] if queries["reranked"] is None else queries["reranked"]
    starts = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return RelevantRanks(starts, np.array([rank for ranks in lists for rank in ranks], dtype=np.float64))
