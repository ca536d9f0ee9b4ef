"""The reader's estimate of the log partition function, against the exact one."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def fitted(trained):
    """A copy, which tests may fit."""
    data, model = trained
    return data, copy.deepcopy(model)


def test_it_is_near_to_the_sum_for_captions_it_was_not_fitted_on(fitted, monkeypatch):
    import torch

    from retrieval.training.fitting.estimate import fit_estimate
    from retrieval.training.inference import fusion_of, regions_of

    monkeypatch.setattr("retrieval.training.fitting.estimate.STEPS", 1000)
    data, model = fitted
    texts, images = np.arange(0, 400, 5)[:, None], np.arange(0, 200, 7)
    regions, reader = regions_of(model.inputs, model.scorer, data), model.scorer.reader
    reader.exact = True
    exact = fusion_of(model.scorer, data, texts, images, regions)
    error = fit_estimate(model.scorer, model.inputs, data, seed=0)
    estimated = fusion_of(model.scorer, data, texts, images, regions)
    two_tokens = 2 * float(reader.log_scale.exp().detach())
    assert 0 < np.sqrt(np.square(estimated - exact).mean()) < 4 * two_tokens * error
    assert error < 0.25 * deviation_of_log_z(data, model, regions)
    states, targets = torch.randn(5, 32), torch.zeros(5, 384)
    with torch.no_grad():
        normed = reader.final_norm(reader.attend_to_regions(states, regions[:1]))
        expected = reader.target_logits(normed, targets) - reader.estimated_log_partition(normed)
        torch.testing.assert_close(reader.log_likelihoods(states, regions[:1], targets), expected)


def deviation_of_log_z(data, model, regions):
    import torch

    reader = model.scorer.reader
    with torch.no_grad():
        previous, _ = reader.shifted(data.tokens_of(np.arange(400))[0])
        states = reader.attend_to_regions(reader.read_text(previous), regions[data.image_of_text])
        return float(reader.exact_log_partition(reader.final_norm(states)).std())


def test_the_same_seed_fits_the_same(fitted, monkeypatch):
    from retrieval.training.fitting import estimate
    from retrieval.training.fitting.estimate import fit_estimate

    monkeypatch.setattr(estimate, "STEPS", 60)  # enough for seeds to differ
    data, model = fitted
    weights = []
    for seed in (1, 1, 2):
        fit_estimate(model.scorer, model.inputs, data, seed)
        weights.append(model.scorer.reader.rest_estimator[0].weight.detach().numpy().copy())
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])


def test_of_a_rest_that_is_known_it_is_the_exact_sum(fitted, monkeypatch):
    """The leading half of the vocabulary summed, and of the other half exactly what it is."""
    import torch

    _, model = fitted
    reader, states = model.scorer.reader, torch.randn(6, 32)
    leading = len(reader.leading_tokens)

    class ExactRest(torch.nn.Module):
        def forward(self, states):
            weights, bias = reader.output_weights(reader.vocabulary[leading:])
            return (states @ weights.T + bias).logsumexp(-1, keepdim=True)

    with torch.no_grad():
        reader.leading_tokens.copy_(reader.vocabulary[:leading])
        with monkeypatch.context() as patched:
            patched.setattr(reader, "rest_estimator", ExactRest())
            estimate = reader.estimated_log_partition(states)
        torch.testing.assert_close(estimate, reader.exact_log_partition(states))
