"""Search for many queries by matrix products, against `nearest`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import products
from indexes.exact import as_float32, nearest
from indexes.products import nearest_of_many


@pytest.fixture(scope="module", autouse=True)
def _few_rows():
    """Are enough for matrix products."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "FEWEST_ROWS", 0)
        patch.setattr(products, "ROWS_A_RESULT", 0)
        yield


def assert_same(queries, arrays, masks, k):
    result, expected = nearest_of_many(queries, arrays, masks, k), nearest(queries, arrays, masks, k)
    np.testing.assert_array_equal(result[1], expected[1])
    np.testing.assert_array_equal(result[0].view(np.uint32), expected[0].view(np.uint32))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of exact search, for rows that are not finite
@settings(deadline=None, max_examples=80)
@given(
    sizes=st.lists(st.integers(0, 150), min_size=1, max_size=4),
    dim=st.sampled_from([1, 5, 31, 64]),
    k=st.integers(1, 60),
    seed=st.integers(0, 10_000),
    share=st.sampled_from([None, 0.0, 0.3, 1.0]),
    kind=st.sampled_from(["random", "few values", "equal", "near", "nan", "infinite", "zero", "huge"]),
    dtype=st.sampled_from([np.float16, np.float32]),
    block=st.sampled_from([7, 64, 4096]),
)
def test_the_results_are_those_of_exact_search_to_the_bit(sizes, dim, k, seed, share, kind, dtype, block):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(size, dim)).astype(dtype) for size in sizes]
    queries = rng.normal(size=(20, dim)).astype(np.float32)
    for array in arrays:
        if kind == "few values":
            array[:] = rng.integers(-1, 2, array.shape)
        elif kind in ("equal", "near"):
            array[:] = np.linspace(0.1, 1, dim, dtype=dtype)
            if kind == "near" and len(array):
                array[:] = np.nextafter(array, rng.choice([0, 2], array.shape).astype(dtype))
        elif kind in ("nan", "infinite") and len(array):
            values = [np.nan] if kind == "nan" else [np.inf, -np.inf, np.nan]
            array[rng.integers(len(array), size=9), rng.integers(dim, size=9)] = rng.choice(values, 9)
        elif kind == "zero":
            array[::2], queries[0] = 0, 0
        elif kind == "huge" and dtype == np.float32:
            array *= np.float32(1e20) ** rng.random(size=(len(array), 1)).astype(np.float32)
    if kind == "few values":
        queries = rng.integers(-1, 2, queries.shape).astype(np.float32)
    masks = [None if share is None else rng.random(size) < share for size in sizes]
    before, products.ROWS_AT_ONCE = products.ROWS_AT_ONCE, block
    try:
        assert_same(queries, arrays, masks, k)
    finally:
        products.ROWS_AT_ONCE = before


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_query_without_bounds_spoils_no_other(value):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    queries[3, 2] = value
    with np.errstate(over="ignore"):
        assert_same(queries, [rng.normal(size=(500, 8)).astype(np.float16)], [None], 7)


def test_of_rows_that_tie_no_more_are_kept_than_memory_allows(monkeypatch):
    monkeypatch.setattr(products, "MOST_CANDIDATES", 50)
    queries = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    assert_same(queries, [np.ones((5000, 8), np.float16)], [None], 7)


def test_few_queries_or_rows_are_compared_one_by_one(monkeypatch):
    counts = []

    def counted(queries, *rest):
        counts.append(len(queries))
        return nearest(queries, *rest)

    monkeypatch.setattr(products, "nearest", counted)
    rows = np.eye(8, dtype=np.float16)
    for count in (1, products.FEWEST_QUERIES - 1, products.FEWEST_QUERIES):
        counts.clear()
        nearest_of_many(np.ones((count, 8), np.float32), [rows], [None], 3)
        assert counts == ([count] if count < products.FEWEST_QUERIES else [1] * count)
    counts.clear()
    monkeypatch.setattr(products, "FEWEST_ROWS", 8)
    nearest_of_many(np.ones((20, 8), np.float32), [rows], [rows[:, 0] == 0], 3)
    assert counts == [20]


def test_a_first_product_that_is_not_among_the_nearest_is_noticed():
    """Products of near ties come in another order than their dot products: some are, so the error counts."""
    rng = np.random.default_rng(5)
    rows = np.tile(rng.normal(size=(1, 256)), (3000, 1)).astype(np.float32)
    rows = np.nextafter(rows, rng.choice([-9, 9], rows.shape).astype(np.float32))
    queries = rng.normal(size=(30, 256)).astype(np.float32)
    by_product = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :5]
    assert (by_product != nearest(queries, [rows], [None], 5)[1]).any()
    assert_same(queries, [rows], [None], 5)


def test_squares_that_underflow_leave_no_row_out():
    """The same near ties, scaled by powers of two: the rows are so short that float32 takes their norms for zero."""
    rng = np.random.default_rng(5)
    rows = np.tile(rng.normal(size=(1, 256)), (3000, 1)).astype(np.float32)
    rows = np.nextafter(rows, rng.choice([-9, 9], rows.shape).astype(np.float32)) * np.float32(2.0**-80)
    queries = rng.normal(size=(30, 256)).astype(np.float32) * np.float32(2.0**80)
    assert not np.vecdot(rows, rows).any()
    by_product = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :5]
    assert (by_product != nearest(queries, [rows], [None], 5)[1]).any()
    assert_same(queries, [rows], [None], 5)


def test_rows_that_all_tie_are_given_up_early_and_compared_for_all_queries_at_once(monkeypatch):
    rows = np.ones((20 * products.ROWS_AT_ONCE, 8), np.float16)
    queries = np.random.default_rng(0).normal(size=(products.QUERIES_AT_ONCE + 1, 8)).astype(np.float32)
    queries[-1] = 0
    blocks, counts = [], []

    def noted(block):
        blocks.append(len(block))
        return as_float32(block)

    def counted(queries, *rest):
        counts.append(len(queries))
        return nearest(queries, *rest)

    monkeypatch.setattr(products, "as_float32", noted)
    monkeypatch.setattr(products, "nearest", counted)
    positions = nearest_of_many(queries, [rows], [None], 7)[1]
    assert (positions == np.arange(7)).all()
    assert counts == [products.QUERIES_AT_ONCE, 1]
    assert 2 <= len(blocks) <= 6, "two passes, each over a few blocks"
