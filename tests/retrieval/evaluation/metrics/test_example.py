"""Four images and eight captions, worked out by hand: the value of every measure, and why.

Images A, B, C, D have two captions each: a1, a2, b1, ... These are the similarities that a model gives:

              A     B     C     D
        a1   0.9   0.1   0.2   0.3     A first
        a2   0.5   0.7   0.6   0.1     B, C, then A
        b1   0.4   0.8   0.8   0.2     B and C tie
        b2   0.3   0.6   0.1   0.2     B first
        c1   0.8   0.7   0.2   0.6     A, B, D, then C
        c2   0.1   0.2   0.4   0.3     C first
        d1   0.5   0.5   0.5   0.5     all four tie
        d2   0.2   0.1   0.3   0.4     D first
"""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from retrieval.evaluation.metrics import (
    RelevantRanks,
    bootstrap_difference,
    bootstrap_interval,
    candidate_ranks,
    caption_relevance,
    first_rank,
    ndcg_at,
    recall_at,
    reciprocal_rank,
    relevant_ranks,
    success_at,
)

SIMILARITIES = np.array(
    [
        [0.9, 0.1, 0.2, 0.3],
        [0.5, 0.7, 0.6, 0.1],
        [0.4, 0.8, 0.8, 0.2],
        [0.3, 0.6, 0.1, 0.2],
        [0.8, 0.7, 0.2, 0.6],
        [0.1, 0.2, 0.4, 0.3],
        [0.5, 0.5, 0.5, 0.5],
        [0.2, 0.1, 0.3, 0.4],
    ]
)
IMAGE_OF_CAPTION = [0, 0, 1, 1, 2, 2, 3, 3]
TEXT_TO_IMAGE, IMAGE_TO_TEXT = caption_relevance(IMAGE_OF_CAPTION)


@pytest.fixture
def text_to_image() -> RelevantRanks:
    """Every caption asks for its image. Under a tie the right image stands last: b1 finds B behind C, d1 finds D behind
    the three others."""
    return relevant_ranks(SIMILARITIES, TEXT_TO_IMAGE)


@pytest.fixture
def image_to_text() -> RelevantRanks:
    """Every image asks for its two captions; a column, read downwards:

    A: a1 0.9, c1 0.8, then a2 and d1 tie at 0.5: a1 is first, a2 stands behind d1, fourth.
    B: b1 0.8, then a2 and c1 at 0.7, b2 0.6: first and fourth.
    C: b1 0.8, a2 0.6, d1 0.5, c2 0.4, d2 0.3, then a1 and c1 tie at 0.2: fourth, and seventh behind a1.
    D: c1 0.6, d1 0.5, d2 0.4: second and third.
    """
    return relevant_ranks(SIMILARITIES.T, IMAGE_TO_TEXT)


def test_text_to_image_ranks(text_to_image: RelevantRanks) -> None:
    assert first_rank(text_to_image).tolist() == [1, 3, 2, 1, 4, 1, 4, 1]


def test_text_to_image_success_is_what_papers_call_recall(text_to_image: RelevantRanks) -> None:
    assert success_at(text_to_image, 1).tolist() == [1, 0, 0, 1, 0, 1, 0, 1]  # R@1 = 4/8
    assert success_at(text_to_image, 3).tolist() == [1, 1, 1, 1, 0, 1, 0, 1]  # R@3 = 6/8


def test_with_one_right_image_recall_is_success(text_to_image: RelevantRanks) -> None:
    assert recall_at(text_to_image, 3).tolist() == success_at(text_to_image, 3).tolist()


def test_text_to_image_mean_reciprocal_rank(text_to_image: RelevantRanks) -> None:
    reciprocal = reciprocal_rank(text_to_image)
    assert reciprocal.tolist() == [1, 1 / 3, 1 / 2, 1, 1 / 4, 1, 1 / 4, 1]
    assert reciprocal.mean() == pytest.approx(2 / 3)  # (4 + 1/3 + 1/2 + 2/4) / 8


def test_text_to_image_ndcg(text_to_image: RelevantRanks) -> None:
    second, third, fourth = 1 / log2(3), 1 / log2(4), 1 / log2(5)
    assert ndcg_at(text_to_image).tolist() == [1, third, second, 1, fourth, 1, fourth, 1]


def test_text_to_image_median_and_mean_rank(text_to_image: RelevantRanks) -> None:
    assert np.median(first_rank(text_to_image)) == 1.5
    assert np.mean(first_rank(text_to_image)) == 17 / 8


def test_image_to_text_ranks(image_to_text: RelevantRanks) -> None:
    assert [image_to_text.of(image).tolist() for image in range(4)] == [[1, 4], [1, 4], [4, 7], [2, 3]]


def test_image_to_text_success_asks_for_any_caption(image_to_text: RelevantRanks) -> None:
    assert success_at(image_to_text, 1).tolist() == [1, 1, 0, 0]  # R@1 = 2/4
    assert success_at(image_to_text, 3).tolist() == [1, 1, 0, 1]  # R@3 = 3/4


def test_image_to_text_recall_asks_for_all_captions(image_to_text: RelevantRanks) -> None:
    assert recall_at(image_to_text, 1).tolist() == [1 / 2, 1 / 2, 0, 0]
    assert recall_at(image_to_text, 3).tolist() == [1 / 2, 1 / 2, 0, 1]
    assert recall_at(image_to_text, 7).tolist() == [1, 1, 1, 1]


def test_image_to_text_ndcg_weighs_both_captions(image_to_text: RelevantRanks) -> None:
    best = 1 / log2(2) + 1 / log2(3)  # both captions in front
    first_and_fourth = (1 / log2(2) + 1 / log2(5)) / best
    fourth_and_seventh = (1 / log2(5) + 1 / log2(8)) / best
    second_and_third = (1 / log2(3) + 1 / log2(4)) / best
    expected = [first_and_fourth, first_and_fourth, fourth_and_seventh, second_and_third]
    assert ndcg_at(image_to_text).tolist() == expected


def test_a_reranker_that_sees_only_the_first_two(text_to_image: RelevantRanks) -> None:
    """a2 has lost A already (B and C came first). c1 has lost C. The scorer puts B first for b1, and errs for d2."""
    candidates = [[0, 3], [1, 2], [2, 1], [1, 0], [0, 1], [2, 3], [0, 1], [3, 2]]
    scores = [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]
    reranked = candidate_ranks(candidates, scores, TEXT_TO_IMAGE)
    assert first_rank(reranked).tolist() == [1, np.inf, 1, 1, np.inf, 1, np.inf, 2]


def test_behind_the_candidates_the_first_stage_goes_on(text_to_image: RelevantRanks) -> None:
    candidates = [[0, 3], [1, 2], [2, 1], [1, 0], [0, 1], [2, 3], [0, 1], [3, 2]]
    scores = [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]
    reranked = candidate_ranks(candidates, scores, TEXT_TO_IMAGE, rest=text_to_image)
    assert first_rank(reranked).tolist() == [1, 3, 1, 1, 4, 1, 4, 2]


def test_an_interval_is_taken_over_images_not_captions(text_to_image: RelevantRanks) -> None:
    """Of the two captions of each image one finds it first. Whichever images are drawn, R@1 is 1/2: the interval over
    images is a point, where one over captions, which takes all eight for independent, would run from 1/8 to 7/8."""
    assert bootstrap_interval(success_at(text_to_image, 1), IMAGE_OF_CAPTION) == (0.5, 0.5, 0.5)
    assert bootstrap_interval(success_at(text_to_image, 1), range(8)) == (0.5, 0.125, 0.875)


def test_a_paired_difference_is_taken_on_the_same_images() -> None:
    """The second system is better by 0.1 on every query: that much is certain, though neither of the two means is."""
    before = np.array([0.1, 0.2, 0.5, 0.6, 0.0, 0.3, 0.8, 0.9])
    difference = bootstrap_difference(before, before + 0.1, IMAGE_OF_CAPTION)
    assert np.allclose(difference, 0.1)
    assert difference.excludes_zero
