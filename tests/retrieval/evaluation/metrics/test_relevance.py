"""Which items are relevant, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.evaluation.metrics import Relevance, caption_relevance


def test_lists_become_rows_of_one_array() -> None:
    relevance = Relevance.from_lists([[4, 2], [0]])
    assert (relevance.starts.tolist(), relevance.items.tolist()) == ([0, 2, 3], [4, 2, 0])


def test_captions_in_any_order_find_their_image_and_images_their_captions() -> None:
    to_image, to_text = caption_relevance([1, 0, 1, 1])
    assert [to_image.of(caption).tolist() for caption in range(4)] == [[1], [0], [1], [1]]
    assert [to_text.of(image).tolist() for image in range(2)] == [[1], [0, 2, 3]]


def test_no_query_at_all_is_accepted() -> None:
    assert len(Relevance.from_lists([])) == 0


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ([[1], []], "query 1 has no relevant item"),
        ([[1], [2, 3, 2]], "query 1 names a relevant item twice"),
        ([[1], [-1]], "row numbers"),
    ],
)
def test_what_no_measure_is_defined_for_is_refused(lists: list[list[int]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Relevance.from_lists(lists)


def test_starts_that_do_not_cover_the_items_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to the number of items"):
        Relevance(np.array([0, 1]), np.array([0, 1]))


def test_an_image_without_captions_is_refused() -> None:
    with pytest.raises(ValueError, match="query 1 has no relevant item"):
        caption_relevance([0, 2])
