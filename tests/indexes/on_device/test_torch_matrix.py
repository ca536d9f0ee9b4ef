"""Rows in a device's memory by torch: growth, blocks and groups, and what a device without memory says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.on_device import torch_matrix
from indexes.on_device.base import DeviceError
from indexes.on_device.torch_matrix import GROUPS, ROOM, TorchMatrix, largest_products

pytestmark = pytest.mark.torch
DIM = 20  # no multiple of eight


def rows_of(count: int, seed: int = 0):
    rows = np.random.default_rng(seed).normal(size=(count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@settings(deadline=None, max_examples=60)
@given(
    columns=st.integers(1, 4 * GROUPS * 7),
    count=st.integers(1, 40),
    seed=st.integers(0, 1000),
    values=st.sampled_from([3, 1000]),
)
def test_the_largest_products_are_those_of_topk(columns, count, seed, values):
    import torch

    products = torch.randint(-values, values, (3, columns), generator=torch.Generator().manual_seed(seed)).half()
    products[0, ::3] = -torch.inf
    count = min(count, columns)
    best, at = largest_products(products, count)
    assert torch.equal(best, products.topk(count, dim=1).values)
    assert torch.equal(products.gather(1, at), best)
    assert all(len(set(row)) == count for row in at.tolist())


@pytest.mark.parametrize(("elements", "products"), [(2**30, 2**28), (2**30, 1), (1, 2**28), (24 * GROUPS * 3, 2**28)])
def test_results_do_not_depend_on_blocks(monkeypatch, elements, products):
    rows, queries = rows_of(2000), rows_of(9, seed=1).astype(np.float32)
    barred = np.random.default_rng(2).random(2000) < 0.3
    matrix = TorchMatrix("cpu", DIM, 2000)
    matrix.add(rows)
    expected = matrix.shortlists(queries, 30, 2000, matrix.barred(barred))
    monkeypatch.setattr(torch_matrix, "ELEMENTS_AT_ONCE", elements)
    monkeypatch.setattr(torch_matrix, "PRODUCTS_AT_ONCE", products)
    monkeypatch.setattr(torch_matrix, "QUERIES_AT_ONCE", 4)
    result = matrix.shortlists(queries, 30, 2000, matrix.barred(barred))
    np.testing.assert_array_equal(result.products, expected.products)
    np.testing.assert_array_equal(result.bounds, expected.bounds)
    assert not barred[result.rows].any()


def test_later_rows_lie_in_other_tensors_and_are_found_and_fetched(monkeypatch):
    monkeypatch.setattr(torch_matrix, "ROWS_COPIED", 37)
    matrix = TorchMatrix("cpu", DIM, 100)
    blocks = [rows_of(count, seed=count) for count in (100, 5, 50, 300, 1)]
    for block in blocks:
        assert not len(matrix.add(block))
    rows = np.concatenate(blocks)
    assert len(matrix) == len(rows) == 456
    chosen = np.random.default_rng(0).permutation(456)
    np.testing.assert_array_equal(matrix.fetch(chosen), rows[chosen].astype(np.float32))
    queries = rows[[3, 104, 150, 455]].astype(np.float32)
    assert matrix.shortlists(queries, 1, 456, None).rows[:, 0].tolist() == [3, 104, 150, 455]
    assert (matrix.shortlists(queries, 40, 120, None).rows < 120).all(), "an earlier snapshot's rows alone"


def test_rows_that_are_not_finite_are_named_and_stored_as_zeros():
    rows = rows_of(50)
    rows[[3, 40]] = np.nan
    rows[7, 2] = np.inf
    matrix = TorchMatrix("cpu", DIM, 50)
    assert matrix.add(rows).tolist() == [3, 7, 40]
    assert not matrix.fetch(np.array([3, 7, 40])).any() and 0.9 < matrix.norm < 1.1


def test_a_card_that_is_too_small_is_told_with_sizes(monkeypatch):
    monkeypatch.setattr(torch_matrix, "free_bytes", lambda device: ROOM + 2**30)
    with pytest.raises(DeviceError, match=r"^the embeddings take 4\.5 GiB, and 1\.0 GiB of the GPU's memory"):
        TorchMatrix("cpu", 24, 100_000_000)


def test_room_for_later_rows_is_taken_only_where_it_fits(monkeypatch):
    row_bytes = 48
    monkeypatch.setattr(torch_matrix, "free_bytes", lambda device: ROOM + 100 * row_bytes)
    matrix = TorchMatrix("cpu", DIM, 100)
    matrix.add(rows_of(100))
    monkeypatch.setattr(torch_matrix, "free_bytes", lambda device: ROOM)
    with pytest.raises(DeviceError, match="can be used"):
        matrix.add(rows_of(1))
    assert len(matrix) == 100
    np.testing.assert_array_equal(matrix.fetch(np.arange(100)), rows_of(100).astype(np.float32))


@pytest.mark.parametrize("kind", ["OutOfMemoryError", "RuntimeError"])
def test_what_torch_raises_is_one_line(monkeypatch, kind):
    import torch

    def fail(*arguments, **options):
        raise getattr(torch, kind, RuntimeError)("CUDA error: it fell off the bus\nCompile with `TORCH_USE_CUDA_DSA`")

    matrix = TorchMatrix("cpu", DIM, 10)
    monkeypatch.setattr(torch, "from_numpy", fail)
    with pytest.raises(DeviceError) as raised:
        matrix.shortlists(np.ones((1, DIM), np.float32), 3, 0, None)
    expected = "the GPU has no memory left" if kind == "OutOfMemoryError" else "torch: CUDA error: it fell off the bus"
    assert str(raised.value) == expected


def test_an_error_while_adding_leaves_the_rows_that_were_there(monkeypatch):
    matrix = TorchMatrix("cpu", DIM, 200)
    matrix.add(rows_of(10))
    monkeypatch.setattr(torch_matrix, "ROWS_COPIED", 20)
    blocks = [rows_of(50, seed=3)]
    blocks[0] = blocks[0].view(FailingLater)
    with pytest.raises(DeviceError):
        matrix.add(blocks[0])
    assert len(matrix) == 10
    matrix.add(rows_of(7, seed=4))
    np.testing.assert_array_equal(matrix.fetch(np.arange(10, 17)), rows_of(7, seed=4).astype(np.float32))


class FailingLater(np.ndarray):
    """Rows of which those behind the first twenty cannot be taken."""

    def __getitem__(self, key):
        if isinstance(key, slice) and key.start == 20:
            raise RuntimeError("the device is gone")
        return super().__getitem__(key)


@pytest.mark.parametrize("failure", [RuntimeError("the device is gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("blocks_before", [0, 1])
def test_an_error_in_a_second_tensor_leaves_no_rows_and_no_room_behind(monkeypatch, failure, blocks_before):
    """Rows that are added afterwards lie where they are looked for."""
    matrix = TorchMatrix("cpu", DIM, 100)
    rows = [rows_of(100, seed=1)][:blocks_before]
    for block in rows:
        matrix.add(block)
    monkeypatch.setattr(torch_matrix, "ROWS_COPIED", 60)
    failing = rows_of(300, seed=2).view(FailingLast)
    failing.failure = failure
    with pytest.raises(DeviceError if isinstance(failure, RuntimeError) else KeyboardInterrupt):
        matrix.add(failing)
    assert len(matrix) == 100 * blocks_before
    for count in (5, 200):
        rows.append(rows_of(count, seed=count))
        matrix.add(rows[-1])
    expected = np.concatenate(rows)
    np.testing.assert_array_equal(matrix.fetch(np.arange(len(matrix))), expected.astype(np.float32))
    listed = matrix.shortlists(expected.astype(np.float32), 1, len(matrix), None).rows[:, 0]
    assert listed.tolist() == list(range(len(expected)))


class FailingLast(np.ndarray):
    """Rows of which those from the 200th on cannot be taken."""

    failure: BaseException

    def __getitem__(self, key):
        if isinstance(key, slice) and key.start >= 200:
            raise self.failure
        return super().__getitem__(key)


@pytest.mark.parametrize("grows", [False, True])
def test_a_device_that_cannot_tell_its_free_memory_fails_as_a_device(monkeypatch, grows):
    matrix = TorchMatrix("cpu", DIM, 10)

    def busy(device):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore")

    monkeypatch.setattr(torch_matrix, "free_bytes", busy)
    with pytest.raises(DeviceError, match="^torch: CUDA error: all CUDA-capable devices are busy or unavailable$"):
        if grows:
            matrix.add(rows_of(100))
        else:
            TorchMatrix("cpu", DIM, 10)
    assert len(matrix) == 0
