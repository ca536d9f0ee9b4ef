"""Ranks from blocks equal those of the full matrix exactly, and the full matrix is exact."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.evaluation.metrics import Relevance, caption_relevance, relevant_ranks, similarities, streamed_ranks


def _unit(rng: np.random.Generator, rows: int, dim: int, dtype: str = "float32") -> NDArray[Any]:
    vectors = rng.standard_normal((rows, dim))
    unit: NDArray[Any] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
    return unit


def _with_duplicates(rng: np.random.Generator, rows: int, dim: int, distinct: int, dtype: str) -> NDArray[Any]:
    """Many rows, few of them distinct: exact ties, in columns that a matrix product treats differently."""
    return _unit(rng, distinct, dim, dtype)[rng.integers(0, distinct, rows)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 40),
    items=st.integers(1, 90),
    dim=st.integers(1, 70),
    distinct=st.integers(1, 30),
    query_block=st.integers(1, 50),
    item_block=st.integers(1, 100),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_ranks_are_those_of_the_full_matrix_whatever_the_blocks(
    seed: int, queries: int, items: int, dim: int, distinct: int, query_block: int, item_block: int, dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    left, right = _unit(rng, queries, dim), _with_duplicates(rng, items, dim, distinct, dtype)
    counts = rng.integers(1, min(items, 6) + 1, queries)
    relevance = Relevance.from_lists([rng.choice(items, count, replace=False) for count in counts])
    streamed = streamed_ranks(left, right, relevance, query_block=query_block, item_block=item_block)
    assert streamed.ranks.tolist() == relevant_ranks(similarities(left, right), relevance).ranks.tolist()


def test_duplicates_tie_exactly_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    items = np.tile(_unit(rng, 1, 333), (1001, 1))
    ranks = streamed_ranks(_unit(rng, 7, 333), items, Relevance.from_lists([[number] for number in range(7)]))
    assert ranks.ranks.tolist() == [1001] * 7


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_similarity_is_the_exact_inner_product_of_the_rounded_vectors(dtype: str) -> None:
    rng = np.random.default_rng(0)
    left, right = _unit(rng, 4, 300), _unit(rng, 5, 300, dtype)
    rounded = [[[Fraction(round(float(x) * 2**26), 2**26) for x in row] for row in side] for side in (left, right)]
    exact = [[float(sum(a * b for a, b in zip(x, y, strict=True))) for y in rounded[1]] for x in rounded[0]]
    assert similarities(left, right).tolist() == exact


def test_rounding_costs_less_than_float32_does() -> None:
    rng = np.random.default_rng(0)
    left, right = _unit(rng, 100, 512), _unit(rng, 100, 512)
    exact = left.astype(np.longdouble) @ right.astype(np.longdouble).T
    assert np.abs(similarities(left, right) - exact).max() < np.abs(left @ right.T - exact).max()


def test_float16_vectors_are_not_rounded() -> None:
    left = _unit(np.random.default_rng(0), 50, 512, "float16")
    assert np.array_equal(similarities(left, left), left.astype(np.float64) @ left.astype(np.float64).T)


def test_memory_mapped_items_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = _unit(rng, 500, 16, "float16")
    np.save(tmp_path / "items.npy", items)
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    queries, relevance = _unit(rng, 20, 16), Relevance.from_lists([[number] for number in range(20)])
    assert (
        streamed_ranks(queries, mapped, relevance).ranks.tolist()
        == streamed_ranks(queries, items, relevance).ranks.tolist()
    )


def test_25000_captions_by_5000_images_stay_far_below_one_gibibyte() -> None:
    rng = np.random.default_rng(0)
    images, captions = _unit(rng, 5_000, 24), _unit(rng, 25_000, 24)
    to_image, to_text = caption_relevance(np.repeat(np.arange(5_000), 5))
    tracemalloc.start()
    streamed_ranks(captions, images, to_image)
    streamed_ranks(images, captions, to_text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_a_vector_of_zeros_ties_with_its_like() -> None:
    items = np.zeros((3, 4), dtype=np.float32)
    assert streamed_ranks(items[:1], items, Relevance.from_lists([[0]])).ranks.tolist() == [3]


def test_no_query_at_all_has_no_ranks() -> None:
    empty = np.empty((0, 4), dtype=np.float32)
    assert len(streamed_ranks(empty, empty, Relevance.from_lists([])).ranks) == 0


@pytest.mark.parametrize("component", [2.0, np.nan, np.inf])
def test_vectors_that_are_not_of_unit_norm_are_refused(component: float) -> None:
    items = np.full((2, 1), component, dtype=np.float32)
    with pytest.raises(ValueError, match="not of unit norm"):
        streamed_ranks(np.ones((1, 1), dtype=np.float32), items, Relevance.from_lists([[0]]))


def test_embeddings_for_another_number_of_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="2 embeddings for 1 queries"):
        streamed_ranks(np.eye(2), np.eye(2), Relevance.from_lists([[0]]))
