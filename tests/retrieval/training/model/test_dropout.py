"""Dropout along a sequence."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch


def test_the_same_components_are_dropped_all_along_and_the_rest_makes_up_for_them():
    import torch

    from retrieval.training.model.dropout import SharedDropout

    torch.manual_seed(0)
    dropped = SharedDropout(0.25)(torch.ones(40, 7, 100))
    assert (dropped == dropped[:, :1]).all()
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 4 / 3]))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert not (dropped[0] == dropped[1]).all()


def test_nothing_is_dropped_when_it_does_not_learn():
    import torch

    from retrieval.training.model.dropout import SharedDropout

    sequence = torch.randn(2, 3, 4)
    assert SharedDropout(0.5).eval()(sequence) is sequence
    assert SharedDropout(0.0)(sequence) is sequence
