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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        ((4, 5, 8), (4, 7, 8)),
        ((3, 4, 5, 8), (4, 7, 8)),
        ((4, 5, 8), (3, 4, 7, 8)),
        ((2, 3, 4, 5, 8), (2, 3, 4, 7, 8)),
        ((2, 3, 4, 5, 8), (1, 4, 7, 8)),
    ],
)
def test_attention_in_one_kernel_is_attention_by_its_formula(queries, keys, masked):
    import torch

    from retrieval.fusion.attention import attention
    from retrieval.training.model.blocks import fused_attention

    torch.manual_seed(0)
    inputs = query, key, value = [torch.randn(shape, requires_grad=True) for shape in (queries, keys, keys)]
    mask = (torch.rand(5, 7) > 0.4) | torch.eye(5, 7, dtype=torch.bool) if masked else None
    expected, fused = attention(query, key, value, mask)[0], fused_attention(query, key, value, mask)
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=1e-4)
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (expected, fused)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-3)


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
