"""Attention, the one primitive of the fusion scorer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d_k)) V (Vaswani et al. 2017, "Attention Is All You Need", equation 1).

    Self-attention takes all three from one sequence; cross-attention takes the queries from one modality, and keys and
    values from the other. queries: float [..., n, d_k]. keys: [..., m, d_k]. values: [..., m, d_v]. mask: bool,
    broadcast to [..., n, m], True where a query may look; a query that may look nowhere gets zeros. Returns the
    attended values [..., n, d_v] and the weights [..., n, m], which sum to one over m."""
    import torch

    logits = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if mask is None:
        weights = torch.softmax(logits, dim=-1)
    else:
        # Not -inf: a row without any place to look would be 0/0.
        weights = torch.softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=-1) * mask
    return weights @ values, weights
