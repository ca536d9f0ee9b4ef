"""Exact search against sorting all similarities."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import indexes.exact
from indexes.exact import as_float32, nearest


def sorted_twin(queries, arrays, masks, k):
    """All similarities, computed one by one, sorted by size, then by position."""
    everything = np.concatenate([np.asarray(array, np.float32) for array in arrays])
    allowed = np.concatenate(
        [np.ones(len(array), bool) if mask is None else mask for array, mask in zip(arrays, masks, strict=True)]
    )
    # A matrix product rounds differently, and rows that nearly tie would change places.
    products = np.array([[np.vecdot(row, query) for row in everything] for query in queries], np.float32)
    similarities = np.where(allowed, products.reshape(len(queries), len(everything)), -np.inf)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(similarities, order, 1)
    order = np.where(np.isfinite(best), order, -1)
    pad = max(0, k - order.shape[1])
    return np.pad(best, ((0, 0), (0, pad)), constant_values=-np.inf), np.pad(
        order, ((0, 0), (0, pad)), constant_values=-1
    )


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    k=st.integers(1, 60),
    seed=st.integers(0, 1000),
    share=st.sampled_from([None, 0.0, 0.3, 1.0]),
    block=st.sampled_from([7, 1000]),
)
def test_finds_what_sorting_finds(sizes, k, seed, share, block):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(size, 5)).astype(np.float16) for size in sizes]
    masks = [None if share is None else rng.random(size) < share for size in sizes]
    queries = rng.normal(size=(3, 5)).astype(np.float32)
    before = indexes.exact.BLOCK
    indexes.exact.BLOCK = block
    try:
        similarities, positions = nearest(queries, arrays, masks, k)
    finally:
        indexes.exact.BLOCK = before
    expected, expected_positions = sorted_twin(queries, arrays, masks, k)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_allclose(similarities, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4), k=st.integers(1, 60), seed=st.integers(0, 1000))
def test_among_many_equals_the_first_positions_are_found(sizes, k, seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(-1, 2, (size, 3)).astype(np.float16) for size in sizes]
    queries = rng.integers(-1, 2, (4, 3)).astype(np.float32)
    similarities, positions = nearest(queries, arrays, [None] * len(arrays), k)
    expected, expected_positions = sorted_twin(queries, arrays, [None] * len(arrays), k)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_array_equal(similarities, expected)


def test_the_order_does_not_depend_on_how_rows_are_split_or_queries_grouped():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 64)).astype(np.float16)
    rows[150:] = rows[:150]
    queries = rng.normal(size=(40, 64)).astype(np.float32)
    together = nearest(queries, [rows], [None], 99)
    split = nearest(queries, [rows[:70], rows[70:151], rows[151:]], [None] * 3, 99)
    one_by_one = [nearest(query[None], [rows], [None], 99) for query in queries]
    for part in (0, 1):  # similarities, positions
        np.testing.assert_array_equal(split[part], together[part])
        np.testing.assert_array_equal(together[part], np.concatenate([result[part] for result in one_by_one]))


def test_nothing_to_search_gives_padding():
    similarities, positions = nearest(np.ones((1, 4), np.float32), [], [], 3)
    assert positions.tolist() == [[-1, -1, -1]]
    assert np.isneginf(similarities).all()


def test_equals_come_by_position_across_segments():
    arrays = [np.ones((3, 2), np.float16), np.ones((3, 2), np.float16)]
    _, positions = nearest(np.ones((1, 2), np.float32), arrays, [None, None], 6)
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_every_finite_half_is_widened_to_the_same_number():
    patterns = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = patterns[np.isfinite(patterns)].reshape(-1, 4)
    for block in (halves, halves[::3], np.zeros((0, 4), np.float16)):
        widened, expected = as_float32(block), block.astype(np.float32)
        assert widened.dtype == np.float32
        np.testing.assert_array_equal(widened.view(np.uint32), expected.view(np.uint32))


def test_what_is_no_number_is_never_found():
    rows = np.random.default_rng(0).normal(size=(2100, 8)).astype(np.float16)
    rows[3], rows[1500, 2] = np.nan, np.nan
    queries = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    _, positions = nearest(queries, [rows], [None], 2100)
    assert (positions[:, -2:] == -1).all()
    assert not np.isin(positions, [3, 1500]).any()


def test_rows_in_any_order_in_memory_give_the_same():
    rows = np.asfortranarray(np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32))
    queries = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    masked = nearest(queries, [rows], [np.arange(500) > 0], 500)
    unmasked = nearest(queries, [rows], [None], 500)
    for query in range(3):
        similarity_at = dict(zip(unmasked[1][query].tolist(), unmasked[0][query].tolist(), strict=True))
        is_row = masked[1][query] > 0
        assert [similarity_at[at] for at in masked[1][query][is_row].tolist()] == masked[0][query][is_row].tolist()
