"""Precision that torch has for the whole process is full inside of a block, and the process's own outside."""

from __future__ import annotations

import numpy as np
import pytest

from indexes.on_device import torch_matrix
from indexes.on_device.certificate import Special, certified
from indexes.on_device.precision import full_float32, full_sums
from indexes.on_device.torch_matrix import TorchMatrix

pytestmark = pytest.mark.torch


@pytest.fixture
def matmul():
    """torch's choices, which the test may change."""
    import torch

    choices = torch.backends.cuda.matmul
    sums, accumulation = choices.allow_fp16_reduced_precision_reduction, choices.allow_fp16_accumulation
    yield choices
    choices.allow_fp16_reduced_precision_reduction, choices.allow_fp16_accumulation = sums, accumulation
    torch.set_float32_matmul_precision("highest")
    choices.fp32_precision = "none"


@pytest.mark.parametrize("chosen", [True, False])
def test_sums_are_full_inside_and_as_before_outside(matmul, chosen):
    matmul.allow_fp16_reduced_precision_reduction = (chosen, chosen)
    matmul.allow_fp16_accumulation = chosen
    with full_sums() as outer:
        with full_sums() as inner:
            assert not matmul.allow_fp16_reduced_precision_reduction and not matmul.allow_fp16_accumulation
        assert not matmul.allow_fp16_reduced_precision_reduction and not matmul.allow_fp16_accumulation
    assert outer.kept and inner.kept
    assert matmul.allow_fp16_reduced_precision_reduction is matmul.allow_fp16_accumulation is chosen
    assert matmul.allow_fp16_reduced_precision_reduction_split_k is chosen


@pytest.mark.parametrize("by", ["older name", "newer name", "not at all"])
def test_float32_is_full_inside_and_as_before_outside(matmul, by):
    import torch

    if by == "older name":
        torch.set_float32_matmul_precision("high")
    elif by == "newer name":
        matmul.fp32_precision = "tf32"
    before = matmul.fp32_precision
    with pytest.raises(KeyError), full_float32():
        assert matmul.fp32_precision != "tf32" and torch.get_float32_matmul_precision() == "highest"
        raise KeyError
    assert matmul.fp32_precision == before == ("none" if by == "not at all" else "tf32")


def test_what_another_part_of_the_process_chooses_meanwhile_stays_and_is_noticed(matmul):
    with full_sums() as outer:
        with full_sums() as during:
            matmul.allow_fp16_reduced_precision_reduction = True
        with full_sums() as later:
            assert not matmul.allow_fp16_reduced_precision_reduction
    assert (outer.kept, during.kept, later.kept) == (False, False, True)
    assert matmul.allow_fp16_reduced_precision_reduction


def test_a_search_proves_nothing_by_sums_that_may_have_been_rounded(matmul, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(3000, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    matrix = TorchMatrix("cpu", 16, 3000)
    matrix.add(rows)
    queries, nothing = rows[:3].astype(np.float32), Special(np.zeros(0, np.int64), np.zeros((0, 16), np.float32))
    matmul.allow_fp16_reduced_precision_reduction = True
    assert certified(matrix, queries, 5, 3000, None, nothing).is_certain.all()
    assert matmul.allow_fp16_reduced_precision_reduction, "the process's choice"
    real, seen = torch_matrix.largest_products, []

    def largest(*arguments):
        seen.append(matmul.allow_fp16_reduced_precision_reduction)
        matmul.allow_fp16_reduced_precision_reduction = True
        return real(*arguments)

    monkeypatch.setattr(torch_matrix, "largest_products", largest)
    assert np.isposinf(matrix.shortlists(queries, 40, 3000, None).bounds).all()
    assert not certified(matrix, queries, 5, 3000, None, nothing).is_certain.any()
    assert not any(seen)
