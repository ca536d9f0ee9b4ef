"""Bootstrap intervals: equal to a plain loop over the same draws, and as trustworthy as they claim."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.evaluation.metrics import bootstrap_difference, bootstrap_interval, intervals


def _clustered(
    rng: np.random.Generator, clusters: int, size: int, shared: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values around 0 with variance 1, of which the share `shared` is common to the cluster."""
    common = rng.standard_normal(clusters)[:, None] * np.sqrt(shared)
    values = common + rng.standard_normal((clusters, size)) * np.sqrt(1 - shared)
    return values.ravel(), np.repeat(np.arange(clusters), size)


def _naive(values: NDArray[np.float64], clusters: NDArray[Any], statistic: Any, seed: int) -> tuple[float, float]:
    """One resample after the other, each a list of values; the same draws."""
    names = np.unique(clusters)
    draws = np.random.default_rng(seed).integers(len(names), size=(intervals.RESAMPLES, len(names)))
    of_name = [values[clusters == name] for name in names]
    statistics = sorted(float(statistic(np.concatenate([of_name[i] for i in draw]))) for draw in draws)
    return statistics[50], statistics[-51]


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("sizes", [[3] * 20, [1, 2, 5, 9, 1, 1, 4], [1] * 15])
def test_intervals_equal_those_of_a_plain_loop_over_the_same_draws(statistic: Any, sizes: list[int]) -> None:
    rng = np.random.default_rng(1)
    clusters = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    values = rng.integers(1, 12, len(clusters)).astype(float)
    expected = _naive(values, clusters, getattr(np, statistic), seed=5)
    interval = bootstrap_interval(values, clusters, statistic=statistic, seed=5)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_the_value_is_that_of_all_queries(statistic: Any) -> None:
    values = np.array([1.0, 5.0, 2.0, 2.5])
    interval = bootstrap_interval(values, [0, 0, 1, 2], statistic=statistic)
    assert interval.value == getattr(np, statistic)(values)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        values, clusters = _clustered(rng, clusters=60, size=5, shared=0.7)
        interval = bootstrap_interval(values, clusters, resamples=400)
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_an_interval_that_ignores_clusters_covers_the_truth_too_rarely() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        values, _ = _clustered(rng, clusters=60, size=5, shared=0.7)
        interval = bootstrap_interval(values, np.arange(len(values)), resamples=400)
        covered += interval.low <= 0 <= interval.high
    assert covered / 300 < 0.85


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_clusters_of_correlated_values_widen_the_interval(statistic: Any) -> None:
    values, clusters = _clustered(np.random.default_rng(0), clusters=200, size=5, shared=0.9)
    over_clusters = bootstrap_interval(values, clusters, statistic=statistic)
    over_values = bootstrap_interval(values, np.arange(len(values)), statistic=statistic)
    assert over_clusters.high - over_clusters.low > 1.5 * (over_values.high - over_values.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    values, clusters = _clustered(np.random.default_rng(0), clusters=30, size=3, shared=0.5)
    assert bootstrap_interval(values, clusters, seed=3) == bootstrap_interval(values, clusters, seed=3)


def test_another_seed_gives_another_interval() -> None:
    values, clusters = _clustered(np.random.default_rng(0), clusters=30, size=3, shared=0.5)
    assert bootstrap_interval(values, clusters, seed=3) != bootstrap_interval(values, clusters, seed=4)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_the_size_of_the_chunks_changes_nothing(statistic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = _clustered(np.random.default_rng(0), clusters=31, size=3, shared=0.5)
    expected = bootstrap_interval(values, clusters, statistic=statistic)
    monkeypatch.setattr(intervals, "DRAWS_AT_ONCE", 700)
    assert bootstrap_interval(values, clusters, statistic=statistic) == expected


def test_clusters_may_be_named_by_anything_and_stand_in_any_order() -> None:
    values, clusters = _clustered(np.random.default_rng(0), clusters=9, size=3, shared=0.5)
    order = np.random.default_rng(1).permutation(len(values))
    named = np.array([f"{cluster}.jpg" for cluster in clusters])
    assert bootstrap_interval(values[order], named[order]) == pytest.approx(bootstrap_interval(values, clusters))


def test_a_paired_difference_is_narrower_than_the_two_intervals_suggest() -> None:
    values, clusters = _clustered(np.random.default_rng(0), clusters=100, size=5, shared=0.5)
    noise = np.random.default_rng(1).standard_normal(len(values)) * 0.1
    alone = bootstrap_interval(values, clusters)
    paired = bootstrap_difference(values, values + 0.05 + noise, clusters)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    assert paired.excludes_zero


def test_a_mean_difference_is_the_mean_of_the_differences() -> None:
    rng = np.random.default_rng(0)
    before, after, clusters = rng.random(60), rng.random(60), np.repeat(np.arange(20), 3)
    assert bootstrap_difference(before, after, clusters) == pytest.approx(bootstrap_interval(after - before, clusters))


def test_a_median_difference_is_taken_over_the_same_draws() -> None:
    rng = np.random.default_rng(0)
    before, clusters = rng.random(60), np.repeat(np.arange(20), 3)
    assert bootstrap_difference(before, before + 1, clusters, statistic="median") == pytest.approx((1, 1, 1))


def test_a_system_does_not_differ_from_itself() -> None:
    values, clusters = _clustered(np.random.default_rng(0), clusters=30, size=3, shared=0.5)
    interval = bootstrap_difference(values, values, clusters)
    assert (interval, interval.excludes_zero) == ((0, 0, 0), False)


def test_a_median_rank_stays_finite_while_few_items_are_missing() -> None:
    ranks = np.array([1.0, 2.0, 3.0, 4.0] * 20 + [np.inf] * 3)
    assert np.isfinite(bootstrap_interval(ranks, np.arange(83), statistic="median")).all()


def test_a_mean_rank_with_a_missing_item_is_infinite() -> None:
    interval = bootstrap_interval([1.0, 2.0, np.inf, 4.0], [0, 1, 2, 3])
    assert (interval.value, interval.high) == (np.inf, np.inf)


def test_the_difference_of_two_infinite_means_is_unknown() -> None:
    interval = bootstrap_difference([1.0, np.inf], [np.inf, 2.0], [0, 1])
    assert (bool(np.isnan(interval).all()), interval.excludes_zero) == (True, False)


def test_one_cluster_has_no_interval() -> None:
    interval = bootstrap_interval([0.0, 1.0], [7, 7])
    assert (interval.value, np.isnan(interval.low), np.isnan(interval.high)) == (0.5, True, True)


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0], [0, 1]), ([[1.0]], [[0]]), ([np.nan], [0])])
def test_values_that_make_no_statistic_are_refused(values: Any, clusters: Any) -> None:
    with pytest.raises(ValueError, match="value"):
        bootstrap_interval(values, clusters)


def test_every_resample_is_of_as_many_clusters_as_there_are() -> None:
    draws = list(itertools.chain.from_iterable(intervals.cluster_draws(count=7, resamples=5, seed=0, at_once=2)))
    assert [len(draw) for draw in draws] == [7] * 5
