"""Scaled dot-product attention, with the weights that it attends by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V (Vaswani et al. 2017, "Attention Is All You Need", equation 1).

    Self-attention takes Q, K and V from one sequence. Cross-attention takes Q from one modality (here: the tokens of a
    text), and K and V from the other (the regions of an image).

    queries: Q, float [..., n, d_k]. keys: K, [..., m, d_k]. values: V, [..., m, d_v]. mask: bool, broadcast to
    [..., n, m], True where a query may attend; a query that may attend nowhere gets zeros. Returns the attended values
    [..., n, d_v], and the weights [..., n, m], which sum to one over m."""
    import torch

    logits = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if mask is None:
        weights = torch.softmax(logits, dim=-1)
    else:
        # The smallest number and not -inf: a row that is masked throughout would be 0/0.
        weights = torch.softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=-1) * mask
    return weights @ values, weights
