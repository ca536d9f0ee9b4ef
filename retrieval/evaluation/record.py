"""The JSON record of an evaluation, which `search evaluate --json` writes, and the comparison of two records."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.evaluation.evaluate import Direction, Evaluation
from retrieval.evaluation.metrics import (
    Interval,
    Measure,
    RelevantRanks,
    bootstrap_difference,
    bootstrap_interval,
    reported_measures,
    success_at,
)

KS = (1, 5, 10)
FORMAT = 1
DIRECTIONS = ("text_to_image", "image_to_text")
PERCENTILES = (50, 95, 99)


def record(evaluation: Evaluation, ks: Sequence[int] = KS) -> dict[str, Any]:
    """The stable, documented JSON record. Shares are from 0 to 1; a value that does not exist is null."""
    directions = {name: getattr(evaluation, name) for name in DIRECTIONS}
    return {
        "format": FORMAT,
        **{name: _direction_record(direction, ks, evaluation.candidates) for name, direction in directions.items()},
        "latency_ms": {
            stage: {f"p{rank}": float(np.percentile(taken, rank)) for rank in PERCENTILES}
            for stage, taken in evaluation.milliseconds.items()
        },
        "ann_recall": evaluation.ann_recall,
        "images": len(evaluation.images),
        "captions": len(evaluation.texts),
        "left_out": len(evaluation.left_out),
        "candidates": evaluation.candidates,
        "scorer_device": evaluation.scorer_device,
        "model": evaluation.model,
        "fingerprint": evaluation.fingerprint,
        "set": evaluation.checksum,
        "queries": {name: _queries_record(direction) for name, direction in directions.items()},
    }


def _direction_record(direction: Direction, ks: Sequence[int], candidates: int | None) -> dict[str, Any]:
    images = direction.image_of_query
    measures = reported_measures(ks, _several_relevant(direction.base))
    base = _intervals(measures, direction.base, images)
    reranked = gain = ceiling = None
    if direction.reranked is not None and candidates is not None:
        after = direction.reranked
        reranked = _intervals(measures, after, images)
        gain = {
            measure.name: _interval_record(_difference(measure, direction.base, after, images)) for measure in measures
        }
        ceiling = _interval_record(bootstrap_interval(success_at(direction.base, candidates), images))
    return {"base": base, "reranked": reranked, "gain": gain, "ceiling": ceiling}


def _intervals(
    measures: Sequence[Measure], ranks: RelevantRanks, images: NDArray[np.int64]
) -> dict[str, dict[str, float | None]]:
    return {
        measure.name: _interval_record(
            bootstrap_interval(measure.per_query(ranks), images, statistic=measure.statistic)
        )
        for measure in measures
    }


def _difference(measure: Measure, before: RelevantRanks, after: RelevantRanks, images: NDArray[np.int64]) -> Interval:
    values_before, values_after = measure.per_query(before), measure.per_query(after)
    return bootstrap_difference(values_before, values_after, images, statistic=measure.statistic)


def _several_relevant(ranks: RelevantRanks) -> bool:
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
    """One measure of two evaluations, and the paired difference, second minus first, with its interval. Where there is
    a scorer, the values are those of the re-ranked lists, which users see."""

    direction: str
    measure: Measure
    first: float
    second: float
    difference: Interval


def compare(first: Path, second: Path, ks: Sequence[int] = KS) -> list[Comparison]:
    """The paired differences between two records of the same images and captions.

    Raises `CrosslookError` for a file that is no such record, and for records of different sets."""
    before, after = read_record(first), read_record(second)
    if before["set"] != after["set"]:
        raise CrosslookError(
            f"{first} and {second} are about different images or captions, so their queries cannot be paired: "
            "evaluate both on the same set"
        )
    rows = []
    for direction in DIRECTIONS:
        images = np.array(before["queries"][direction]["image"], dtype=np.int64)
        ranks_before, ranks_after = _seen_ranks(before, direction), _seen_ranks(after, direction)
        for measure in reported_measures(ks, _several_relevant(ranks_before)):
            difference = _difference(measure, ranks_before, ranks_after, images)
            values = measure.value(ranks_before), measure.value(ranks_after)
            rows.append(Comparison(direction, measure, *values, difference))
    return rows


def read_record(path: Path) -> dict[str, Any]:
    """A record that `search evaluate --json` wrote. Raises `CrosslookError` for any other file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        ranks = [_seen_ranks(record, direction) for direction in DIRECTIONS]
        images = [record["queries"][direction]["image"] for direction in DIRECTIONS]
        if any(len(rank) != len(image) for rank, image in zip(ranks, images, strict=True)):
            raise ValueError("its queries do not agree")
        record["set"]
    except OSError as error:
        raise CrosslookError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CrosslookError(
            f"{path} is not a record of an evaluation: make one with `search evaluate --json`"
        ) from error
    return dict(record)


def _seen_ranks(record: dict[str, Any], direction: str) -> RelevantRanks:
    """The ranks in the lists that users see."""
    queries = record["queries"][direction]
    lists = queries["base"] if queries["reranked"] is None else queries["reranked"]
    starts = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return RelevantRanks(starts, np.array([rank for ranks in lists for rank in ranks], dtype=np.float64))
