"""Hard negatives."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.torch


def test_the_most_confusable_images_are_those_of_a_full_sort():
    from retrieval.training.data.mining import confusable

    rng = np.random.default_rng(0)
    images, owners = rng.normal(size=(40, 6)).astype(np.float32), np.repeat(np.arange(40), 2)
    texts = rng.normal(size=(80, 6)).astype(np.float32)
    neighbours = confusable(images, texts, owners, count=5)
    for image in range(40):
        means = [texts[owners == other].mean(0) for other in range(40)]
        confusion = [means[image] @ images[other] + means[other] @ images[image] for other in range(40)]
        expected = [other for other in np.argsort(-np.array(confusion)) if other != image][:5]
        assert set(neighbours[image]) == set(expected)


def test_fewer_images_than_asked_for_are_all_neighbours():
    from retrieval.training.data.mining import confusable

    rng = np.random.default_rng(0)
    images, texts = (rng.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    neighbours = confusable(images, texts, np.arange(4), count=30)
    assert [set(row) for row in neighbours] == [{1, 2, 3}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2}]


def test_an_order_has_every_image_once_and_neighbours_together():
    from retrieval.training.data.mining import grouped_order

    clusters = np.arange(60) // 6  # six images each, which are one another's neighbours
    neighbours = np.stack(
        [[other for other in range(60) if clusters[other] == clusters[image] and other != image] for image in range(60)]
    )
    order = grouped_order(neighbours, 3, np.random.default_rng(0))
    assert sorted(order) == list(range(60))
    for low in range(0, 60, 3):
        assert len(set(clusters[order[low : low + 3]])) == 1
    assert list(order) != list(grouped_order(neighbours, 3, np.random.default_rng(1)))


def test_groups_that_ran_short_of_neighbours_do_not_divide_others():
    from retrieval.training.data.mining import grouped_order

    clusters = np.arange(60) // 6
    neighbours = np.stack([np.setdiff1d(np.flatnonzero(clusters == clusters[image]), image) for image in range(60)])
    order = grouped_order(neighbours, 4, np.random.default_rng(0))  # of every six, two are left
    assert sorted(order) == list(range(60))
    assert all(len(set(clusters[order[low : low + 4]])) == 1 for low in range(0, 40, 4))
