"""What a device's shortlist proves, against exact search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.exact import nearest
from indexes.on_device import certificate
from indexes.on_device.base import Matrix
from indexes.on_device.certificate import Certified, Special, certified, product_errors
from tests.indexes.on_device.backends import BACKENDS, backend_of
from tests.indexes.on_device.numpy_matrix import NumpyBackend


def unit_norm(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def searched(matrix: Matrix, rows, queries, k: int, barred=None) -> Certified:
    """rows: float16 [n, dim], that become the matrix's."""
    special = matrix.add(rows)
    mask = np.zeros(len(rows), np.bool_) if barred is None else barred.copy()
    allowed = special[~mask[special]]
    mask[special] = True
    on_device = matrix.barred(mask) if mask.any() else None
    return certified(matrix, queries, k, len(rows), on_device, Special(allowed, rows[allowed].astype(np.float32)))


def assert_right(result: Certified, rows, queries, k: int, barred=None) -> None:
    """What is certain is equal to the bit."""
    expected = nearest(queries, [rows], [None if barred is None else ~barred], k)
    certain = result.is_certain
    np.testing.assert_array_equal(result.rows[certain], expected[1][certain])
    np.testing.assert_array_equal(result.similarities[certain].view(np.uint32), expected[0][certain].view(np.uint32))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of exact search, for rows that are not finite
@pytest.mark.parametrize("name", BACKENDS)
@settings(deadline=None, max_examples=80)
@given(
    count=st.integers(1, 700),
    dim=st.sampled_from([1, 5, 8, 31, 64]),
    k=st.integers(1, 120),
    seed=st.integers(0, 10_000),
    share=st.sampled_from([None, 0.0, 0.3, 0.99, 1.0]),
    kind=st.sampled_from(["random", "few values", "equal", "nan", "infinite", "zero", "long", "tiny"]),
)
def test_what_is_certain_is_what_exact_search_finds(name, count, dim, k, seed, share, kind):
    rng = np.random.default_rng(seed)
    rows = unit_norm(rng.normal(size=(count, dim)))
    queries = unit_norm(rng.normal(size=(5, dim)))
    if kind == "few values":
        rows, queries = (rng.integers(-1, 2, array.shape).astype(np.float32) for array in (rows, queries))
    elif kind == "equal":
        rows[:] = rows[0]
    elif kind in ("nan", "infinite"):
        values = [np.nan] if kind == "nan" else [np.inf, -np.inf, np.nan]
        spoilt = rng.integers(count, size=1 + count // 9)
        rows[spoilt, rng.integers(dim, size=len(spoilt))] = rng.choice(values, len(spoilt))
    elif kind == "zero":
        rows[:: 1 + int(rng.integers(3))] = 0
        queries[0] = 0
    elif kind == "long":
        rows *= 60_000.0 ** rng.random(size=(count, 1))
    elif kind == "tiny":
        rows *= 1e-7
    rows = rows.astype(np.float16)
    barred = None if share is None else rng.random(count) < share
    result = searched(backend_of(name).matrix(dim, count), rows, queries.astype(np.float32), k, barred)
    assert_right(result, rows, queries.astype(np.float32), k, barred)


@pytest.mark.parametrize("name", BACKENDS)
def test_ordinary_embeddings_are_certain(name):
    """With sizes, groups and blocks as large collections have them, although fewer."""
    rng = np.random.default_rng(0)
    rows = unit_norm(rng.normal(size=(30_000, 388))).astype(np.float16)
    queries = unit_norm(rng.normal(size=(7, 388)))
    result = searched(backend_of(name).matrix(388, len(rows)), rows, queries, 100)
    assert result.is_certain.all()
    assert_right(result, rows, queries, 100)


@pytest.mark.parametrize("name", BACKENDS)
def test_near_ties_at_the_end_of_the_longest_shortlist_are_not_certain(name):
    """Rows in all directions that are equally far from the query, but for the rounding of their values. The device's
    own first ten are not the nearest ten."""
    rng = np.random.default_rng(1)
    query = unit_norm(rng.normal(size=(1, 64)))
    others = rng.normal(size=(5000, 64))
    others = unit_norm(others - (others @ query.T) * query)
    rows = (0.8 * query + 0.6 * others).astype(np.float16)
    matrix = backend_of(name).matrix(64, 5000)
    result = searched(matrix, rows, query, 10)
    assert not result.is_certain.any()
    listed = matrix.shortlists(query, 10, 5000, None).rows
    assert not np.isin(nearest(query, [rows], [None], 10)[1], listed).all()


def test_a_shortlist_is_made_longer_until_it_proves_something():
    """300 rows tie with the tenth, so that the first two shortlists end among them."""
    rows = np.zeros((3000, 8), np.float16)
    rows[:9, 0], rows[9:309, 0] = 0.9, 0.5
    backend, queries = NumpyBackend(), np.eye(8, dtype=np.float32)[:1]
    result = searched(backend.matrix(8, 3000), rows, queries, 10)
    assert result.is_certain.all() and [count for _, count in backend.calls] == [38, 152, 608]
    assert_right(result, rows, queries, 10)


def test_only_queries_that_are_not_certain_are_asked_again():
    rng = np.random.default_rng(2)
    rows = unit_norm(rng.normal(size=(5000, 16))).astype(np.float16)
    rows[:, 0] = 0
    rows[:2500] = 0
    rows[:2500, 0] = 1
    queries = np.concatenate([np.eye(16, dtype=np.float32)[:1], unit_norm(rows[3000:3004].astype(np.float32))])
    backend = NumpyBackend()
    result = searched(backend.matrix(16, 5000), rows, queries, 3)
    assert result.is_certain.tolist() == [False, True, True, True, True]
    assert [asked for asked, _ in backend.calls] == [5, 1, 1, 1, 1]
    assert_right(result, rows, queries, 3)


def test_many_queries_are_taken_in_parts(monkeypatch):
    monkeypatch.setattr(certificate, "ROWS_AT_ONCE", 100)
    rng = np.random.default_rng(2)
    rows, queries = (unit_norm(rng.normal(size=(count, 16))) for count in (500, 7))
    backend = NumpyBackend()
    result = searched(backend.matrix(16, 500), rows.astype(np.float16), queries, 5)
    assert backend.calls == [(3, 33), (3, 33), (1, 33)]
    assert_right(result, rows.astype(np.float16), queries, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_query_that_float16_cannot_hold_is_not_certain(value):
    rows = unit_norm(np.random.default_rng(3).normal(size=(500, 8))).astype(np.float16)
    queries = np.ones((2, 8), np.float32) / 3
    queries[0, 0] = value
    result = searched(NumpyBackend().matrix(8, 500), rows, queries, 5)
    assert result.is_certain.tolist() == [False, True]


@pytest.mark.parametrize("name", BACKENDS)
def test_products_lie_within_the_bound(name):
    """Of every row, its product and its dot product; the bound is not so wide that it would hold for anything."""
    rng = np.random.default_rng(4)
    for dim in (3, 388, 1152):
        rows = unit_norm(rng.normal(size=(600, dim))).astype(np.float16)
        queries = unit_norm(rng.normal(size=(20, dim)))
        matrix = backend_of(name).matrix(dim, 600)
        matrix.add(rows)
        lists = matrix.shortlists(queries, 600, 600, None)
        dots = np.vecdot(rows.astype(np.float32)[lists.rows], queries[:, None])
        rounded = np.spacing(np.abs(lists.products.astype(np.float16))).astype(np.float64)
        errors = np.abs(lists.products.astype(np.float64) - dots)
        assert (errors <= product_errors(queries, matrix.norm)[:, None] + rounded).all()
        assert (product_errors(queries, matrix.norm) < 2e-3).all()
        assert errors.max() > 1e-5, "they are rounded"
