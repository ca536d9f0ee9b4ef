"""Multi-head attention in its three forms."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch


@pytest.fixture
def attention():
    import torch

    from retrieval.training.model.blocks import MultiHeadAttention

    torch.manual_seed(0)
    return MultiHeadAttention(16, heads=4)


def test_it_is_the_multi_head_attention_of_torch(attention):
    import torch

    expected = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        expected.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
        expected.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
        expected.out_proj.weight.copy_(attention.out_proj.weight)
        expected.out_proj.bias.copy_(attention.out_proj.bias)
    sequence, context = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    torch.testing.assert_close(attention(sequence, context), expected(sequence, context, context)[0])
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(
        attention(sequence, sequence, causal), expected(sequence, sequence, sequence, attn_mask=~causal)[0]
    )


def test_folded_projections_give_what_projected_keys_and_values_give(attention):
    import torch

    images = torch.randn(5, 49, 16)
    for sequence in (torch.randn(3, 16), torch.randn(5, 3, 16)):
        expected = attention(sequence, images)
        torch.testing.assert_close(attention.forward_folded(sequence, images), expected, atol=1e-5, rtol=1e-4)


def test_a_context_of_one_gives_the_same_to_every_query(attention):
    import torch

    sequence, context = torch.randn(3, 16), torch.randn(16)
    expected = attention(sequence, context.unsqueeze(0))
    torch.testing.assert_close(attention.forward_single(context).expand(3, -1), expected)
