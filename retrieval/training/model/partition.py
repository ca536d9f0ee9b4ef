"""The log partition function of a softmax over a vocabulary, without holding the logits of all tokens at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 512  # of states at a time, whose logits fit a processor's cache


class _LogPartition(torch.autograd.Function):
    """log Z_i = log sum over v of exp(h_i . w_v + b_v), for states h: [n, d], weights w: [vocabulary, d] and biases b.

    The gradients need the softmax p_i,v = exp(h_i . w_v + b_v - log Z_i) once more. With the incoming gradient g_i:

        d/dh_i = g_i sum over v of p_i,v w_v      d/dw_v = sum over i of g_i p_i,v h_i      d/db_v = sum of g_i p_i,v

    `backward` computes the logits again, since that is cheaper than to write [n, vocabulary] to memory and read it."""

    @staticmethod
    def forward(context: Any, states: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        log_z = torch.cat([torch.addmm(bias, part, weights.T).logsumexp(-1) for part in states.split(ROWS)])
        context.save_for_backward(states, weights, bias, log_z)
        return log_z

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, weights, bias, log_z = context.saved_tensors
        of_states, of_weights, of_bias = torch.empty_like(states), torch.zeros_like(weights), torch.zeros_like(bias)
        for low in range(0, len(states), ROWS):
            rows = slice(low, low + ROWS)
            logits = torch.addmm(bias, states[rows], weights.T)
            scaled = logits.sub_(log_z[rows, None]).exp_().mul_(gradient[rows, None])  # g_i p_i,v
            of_states[rows] = scaled @ weights
            of_weights += scaled.T @ states[rows]
            of_bias += scaled.sum(0)
        return of_states, of_weights, of_bias


def log_partition(states: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """log sum over the vocabulary of exp(states . weights + bias), float [...].

    states: float [..., d]. weights: float [vocabulary, d]. bias: float [vocabulary]."""
    log_z: Tensor = _LogPartition.apply(states.reshape(-1, states.shape[-1]), weights, bias)
    return log_z.reshape(states.shape[:-1])
