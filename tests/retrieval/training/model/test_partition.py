"""The sum over a vocabulary, and its gradient, against the whole matrix of logits."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch


def test_it_is_the_log_sum_exp_and_so_is_its_gradient():
    import torch

    from retrieval.training.model.partition import ROWS, log_partition

    torch.manual_seed(0)
    shapes = (3, ROWS // 2 + 7, 16), (50, 16), (50,)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weights = torch.randn(shapes[0][:2], dtype=torch.float64)

    def gradients(log_z):
        for tensor in inputs:
            tensor.grad = None
        (log_z * weights).sum().backward()
        return [tensor.grad.clone() for tensor in inputs]

    fast = log_partition(*inputs)
    slow = (inputs[0] @ inputs[1].T + inputs[2]).logsumexp(-1)
    torch.testing.assert_close(fast, slow)
    for gradient, expected in zip(gradients(fast), gradients(slow), strict=True):
        torch.testing.assert_close(gradient, expected)
