"""The attention primitive, against torch's own and against loops."""

from __future__ import annotations

import math

import pytest

pytestmark = pytest.mark.torch


def made_up(*shape, seed=0):
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("lead", [(), (3,), (2, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_it_gives_what_torch_gives(lead, masked):
    import torch

    from retrieval.fusion.attention import attention

    queries, keys, values = made_up(*lead, 5, 8), made_up(*lead, 7, 8, seed=1), made_up(*lead, 7, 6, seed=2)
    mask = None
    if masked:
        mask = made_up(*lead, 5, 7, seed=3) > 0
        mask[..., 0] = True
    attended, _ = attention(queries, keys, values, mask)
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    torch.testing.assert_close(attended, expected)


def test_it_gives_what_the_formula_says_token_by_token():
    from retrieval.fusion.attention import attention

    queries, keys, values = made_up(2, 4), made_up(3, 4, seed=1), made_up(3, 2, seed=2)
    attended, weights = attention(queries, keys, values)
    for row, query in enumerate(queries):
        exponents = [math.exp(float(query @ key) / 2) for key in keys]  # sqrt(d_k) is 2
        shares = [exponent / sum(exponents) for exponent in exponents]
        assert weights[row].tolist() == pytest.approx(shares, rel=1e-5)
        expected = [
            sum(share * float(value[column]) for share, value in zip(shares, values, strict=True)) for column in (0, 1)
        ]
        assert attended[row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_weights_sum_to_one_and_are_zero_where_masked():
    import torch

    from retrieval.fusion.attention import attention

    mask = torch.tensor([True, False, True])
    _, weights = attention(made_up(4, 8), made_up(3, 8, seed=1), made_up(3, 8, seed=2), mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4))
    assert not weights[:, 1].any()


def test_a_query_that_may_look_nowhere_gets_zeros_and_no_nan():
    import torch

    from retrieval.fusion.attention import attention

    queries = made_up(2, 4).requires_grad_()
    attended, weights = attention(
        queries, made_up(3, 4, seed=1), made_up(3, 4, seed=2), torch.zeros(2, 3, dtype=torch.bool)
    )
    assert not attended.any() and not weights.any()
    attended.sum().backward()
    assert torch.isfinite(queries.grad).all()
