"""The building blocks of the reader: multi-head attention, and a block of attention and feed-forward layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from retrieval.fusion.attention import attention
from retrieval.training.model.dropout import SharedDropout

if TYPE_CHECKING:
    from torch import Tensor


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2), for X: [n, dim] and a context C: [m, dim]:

        head_h = softmax(Q_h K_h^T / sqrt(d_k)) V_h     [n, d_k],  d_k = dim / heads
        Q_h = X W_Q,h + b_Q,h    K_h = C W_K,h + b_K,h    V_h = C W_V,h + b_V,h
        output = concat(head_1, ..., head_H) W_O + b_O  [n, dim]

    Self-attention has C = X."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, sequence: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """sequence: X, float [..., n, dim]. context: C, [..., m, dim]. mask: bool, broadcast to [..., heads, n, m], see
        `attention`. Returns [..., n, dim]."""
        projected = self.q_proj(sequence), self.k_proj(context), self.v_proj(context)
        queries, keys, values = (self.split_heads(item) for item in projected)
        if queries.is_cuda:
            attended = fused_attention(queries, keys, values, mask)
        else:
            attended, _ = attention(queries, keys, values, mask)
        return self.out_proj(self.join_heads(attended))

    def forward_folded(self, sequence: Tensor, context: Tensor) -> Tensor:
        """The same as `forward`, faster if n is small and the context belongs to many images: it is never projected.

            Q_h K_h^T = (Q_h W_K,h^T) C^T + Q_h b_K,h     the last term is equal for all m, so softmax cancels it
            A_h V_h   = (A_h C) W_V,h + b_V,h             since each row of the weights A_h sums to one

        sequence: float [..., n, dim]. context: [..., m, dim]."""
        key_weights = self.k_proj.weight.unflatten(0, (self.heads, -1))  # [heads, d_k, dim]: W_K,h^T
        value_weights = self.v_proj.weight.unflatten(0, (self.heads, -1))
        queries = self.split_heads(self.q_proj(sequence))
        # `attention` divides by the root of dim, its d_k here; the formula wants the root of dim / heads.
        folded = queries @ key_weights * (context.shape[-1] / queries.shape[-1]) ** 0.5
        means, _ = attention(folded.flatten(-3, -2), context, context)  # A_h C of all heads, [..., heads * n, dim]
        attended = means.unflatten(-2, (self.heads, -1)) @ value_weights.transpose(-1, -2)
        return self.out_proj(self.join_heads(attended) + self.v_proj.bias)

    def forward_single(self, context: Tensor) -> Tensor:
        """The output for a context of one vector, which gets all the weight from any query: float [dim] -> [dim]."""
        output: Tensor = self.out_proj(self.v_proj(context))
        return output

    def split_heads(self, sequence: Tensor) -> Tensor:
        """[..., n, dim] -> [..., heads, n, dim / heads]."""
        return sequence.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def join_heads(self, parts: Tensor) -> Tensor:
        """[..., heads, n, dim / heads] -> [..., n, dim]."""
        return parts.transpose(-2, -3).flatten(-2)


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """The values that `attention` gives, up to rounding, in one kernel of a GPU, which never writes the weights.

    queries: float [..., heads, n, d]. keys, values: [..., heads, m, d]; the axes before are broadcast together. mask:
    bool, broadcast to [..., heads, n, m], by which every query may attend somewhere."""
    around = torch.broadcast_shapes(queries.shape[:-2], keys.shape[:-2])

    def four_axes(item: Tensor) -> Tensor:
        expanded = item.expand(*around, *item.shape[-2:])
        return expanded.reshape(-1, *expanded.shape[-3:])

    attended = scaled_dot_product_attention(
        *(four_axes(item) for item in (queries, keys, values)), attn_mask=None if mask is None else four_axes(mask)
    )
    return attended.reshape(*around, *attended.shape[-2:])


class Block(nn.Module):
    """A pre-norm transformer block: H <- H + Attention(LN(H), C), then H <- H + FF(LN(H)).

    FF(x) = GELU(x W_1 + b_1) W_2 + b_2, with 2 dim hidden components."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), SharedDropout(dropout), nn.Linear(2 * dim, dim)
        )
        self.dropout = SharedDropout(dropout)

    def forward(self, states: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """states: H, float [..., n, dim]. context: C, [..., m, dim]; None for self-attention, C = LN(H). mask: see
        `MultiHeadAttention.forward`. Returns [..., n, dim]."""
        normed = self.attention_norm(states)
        if context is None or mask is not None or torch.is_grad_enabled():
            attended = self.attention(normed, normed if context is None else context, mask)
        else:
            attended = self.attention.forward_folded(normed, context)
        states = states + self.dropout(attended)
        return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))
