"""How far a figure can be trusted: bootstrap intervals over images.

The captions of one image are not independent: an image that is hard to find is hard under each of them. So the
bootstrap draws images, not queries, and each draw takes all queries of the image (cluster bootstrap: Davison and
Hinkley 1997, "Bootstrap Methods and their Application", section 3.8; for retrieval measures: Sakai 2006, "Evaluating
evaluation metrics based on the bootstrap"). The interval runs from the 2.5th to the 97.5th percentile of the statistic
over the resamples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Statistic = Literal["mean", "median"]

RESAMPLES = 2000
COVERAGE = 0.95
DRAWS_AT_ONCE = 1 << 20


class Interval(NamedTuple):
    """A figure and the ends of its 95% interval, which are nan where they are unknown (see `bootstrap_interval`)."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """For a difference: whether it is beyond noise."""
        return self.low > 0 or self.high < 0


def bootstrap_interval(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    statistic: Statistic = "mean",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean or median of `values`, float [queries], and its 95% interval over clusters.

    clusters: [queries], values that can be compared, such as the row of the query's image. The same seed and number of
    clusters draw the same resamples. The ends are values that resamples took, never interpolated. With fewer than two
    clusters they are nan, since one cluster tells nothing about the spread between clusters. Values may be inf (the
    rank of an item that was not returned).

    Raises `ValueError` for values that are nan, and for shapes that do not agree."""
    numbers, cluster_of = _checked(values, clusters)
    statistics = _resampled(numbers, cluster_of, statistic, resamples, seed)
    return _interval(_of_all(numbers, statistic), statistics, cluster_of)


def bootstrap_difference(
    before: ArrayLike,
    after: ArrayLike,
    clusters: ArrayLike,
    *,
    statistic: Statistic = "mean",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The paired difference of two systems on the same queries, float [queries] each: the statistic of `after` minus
    that of `before`, with both taken over the same resamples. Its interval is narrower than the two intervals alone
    suggest. It is nan where both are infinite. Raises what `bootstrap_interval` raises."""
    numbers_before, cluster_of = _checked(before, clusters)
    numbers_after, _ = _checked(after, clusters)
    with np.errstate(invalid="ignore"):
        value = np.float64(_of_all(numbers_after, statistic)) - _of_all(numbers_before, statistic)
        differences = _resampled(numbers_after, cluster_of, statistic, resamples, seed)
        differences -= _resampled(numbers_before, cluster_of, statistic, resamples, seed)
    return _interval(float(value), differences, cluster_of)


def _checked(values: ArrayLike, clusters: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """float64 [queries] and int64 [queries]: the values, and the number of each value's cluster, from 0."""
    numbers = np.asarray(values, dtype=np.float64)
    names = np.asarray(clusters)
    if numbers.ndim != 1 or numbers.shape != names.shape or not len(numbers):
        raise ValueError(f"values of shape {numbers.shape} in clusters of shape {names.shape}")
    if np.any(np.isnan(numbers)):
        raise ValueError("a value is not a number")
    return numbers, np.unique(names, return_inverse=True)[1].astype(np.int64)


def _of_all(values: NDArray[np.float64], statistic: Statistic) -> float:
    return float(np.mean(values) if statistic == "mean" else np.median(values))


def _resampled(
    values: NDArray[np.float64], cluster_of: NDArray[np.int64], statistic: Statistic, resamples: int, seed: int
) -> NDArray[np.float64]:
    """float64 [resamples]: the statistic of every resample."""
    over_draws = _means if statistic == "mean" else _medians
    count = int(cluster_of.max()) + 1
    at_once = max(1, DRAWS_AT_ONCE // max(count, len(values)))
    parts = [over_draws(values, cluster_of, drawn) for drawn in cluster_draws(count, resamples, seed, at_once)]
    return np.concatenate(parts)


def cluster_draws(count: int, resamples: int, seed: int, at_once: int) -> Iterator[NDArray[np.int64]]:
    """int64 [at most at_once, count]: the clusters of the next resamples. The generator goes on where it stopped: draws
    do not depend on `at_once`."""
    generator = np.random.default_rng(seed)
    for done in range(0, resamples, at_once):
        yield generator.integers(count, size=(min(at_once, resamples - done), count))


def _means(values: NDArray[np.float64], cluster_of: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    sums = np.bincount(cluster_of, weights=values)
    sizes = np.bincount(cluster_of)
    means: NDArray[np.float64] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means


def _medians(
    values: NDArray[np.float64], cluster_of: NDArray[np.int64], drawn: NDArray[np.int64]
) -> NDArray[np.float64]:
    """float64 [draws]: weighted medians. The weight of a value is how often its cluster was drawn. Walks the sorted
    values along their cumulative weights to the middle."""
    rows, count = drawn.shape
    offsets = np.arange(rows)[:, None] * count
    times = np.bincount((drawn + offsets).ravel(), minlength=rows * count).reshape(rows, count)
    order = np.argsort(values)
    reached = np.cumsum(times[:, cluster_of[order]], axis=1)
    total = reached[:, -1]
    lower = np.array([np.searchsorted(row, middle) for row, middle in zip(reached, (total + 1) // 2, strict=True)])
    upper = np.array([np.searchsorted(row, middle) for row, middle in zip(reached, total // 2 + 1, strict=True)])
    ordered = values[order]
    medians: NDArray[np.float64] = (ordered[lower] + ordered[upper]) / 2
    return medians


def _interval(value: float, statistics: NDArray[np.float64], cluster_of: NDArray[np.int64]) -> Interval:
    if not cluster_of.any() or np.any(np.isnan(statistics)):
        return Interval(value, np.nan, np.nan)
    ordered = np.sort(statistics)
    outside = int((1 - COVERAGE) / 2 * len(ordered))
    return Interval(value, float(ordered[outside]), float(ordered[-1 - outside]))
