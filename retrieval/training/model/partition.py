"""The logarithm of the sum over a vocabulary, without ever holding the logits of all words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 512  # whose logits fit a processor's cache


class _LogPartition(torch.autograd.Function):
    """The logits are computed again for the gradient: that is cheaper than to write them out and read them."""

    @staticmethod
    def forward(context: Any, states: Tensor, outputs: Tensor, bias: Tensor) -> Tensor:
        found = torch.cat([torch.addmm(bias, part, outputs.T).logsumexp(-1) for part in states.split(ROWS)])
        context.save_for_backward(states, outputs, bias, found)
        return found

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, outputs, bias, found = context.saved_tensors
        of_states, of_outputs, of_bias = torch.empty_like(states), torch.zeros_like(outputs), torch.zeros_like(bias)
        for low in range(0, len(states), ROWS):
            rows = slice(low, low + ROWS)
            shares = (
                torch.addmm(bias, states[rows], outputs.T).sub_(found[rows, None]).exp_().mul_(gradient[rows, None])
            )
            of_states[rows] = shares @ outputs
            of_outputs += shares.T @ states[rows]
            of_bias += shares.sum(0)
        return of_states, of_outputs, of_bias


def log_partition(states: Tensor, outputs: Tensor, bias: Tensor) -> Tensor:
    """log sum exp over all words of states . outputs + bias, float [...]. states: float [..., d]. outputs: float
    [words, d]. bias: float [words]."""
    found: Tensor = _LogPartition.apply(states.reshape(-1, states.shape[-1]), outputs, bias)
    return found.reshape(states.shape[:-1])
