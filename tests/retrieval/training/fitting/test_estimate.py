"""The reader's estimate of a sum, against the sum."""

from __future__ import annotations

import numpy as np
import pytest

from tests.retrieval.training.made_up import classes, made_up, settings

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from retrieval.training.learning.train import train

    data = made_up(200)
    data.numbers[:] = np.arange(len(data.numbers)) % 40
    return data, train(data, made_up(20, seed=1), classes(), tmp_path_factory.mktemp("run"), settings(epochs=2))[0]


def test_it_is_near_to_the_sum_for_captions_it_was_not_fitted_on(trained):
    import torch

    from retrieval.training.fitting.estimate import fit_estimate
    from retrieval.training.inference import fusion_of, regions_of

    data, model = trained
    texts, images = np.arange(0, 400, 5)[:, None], np.arange(0, 200, 7)
    regions = regions_of(model.inputs, model.scorer, data)
    model.scorer.reader.exact = True
    exact = fusion_of(model.scorer, data, texts, images, regions)
    error = fit_estimate(model.scorer, model.inputs, data, seed=0)
    estimated = fusion_of(model.scorer, data, texts, images, regions)
    words = 2 * float(model.scorer.reader.log_scale.exp().detach())
    assert 0 < np.sqrt(np.square(estimated - exact).mean()) < 4 * words * error
    assert error < 0.25 * _deviation_of_sums(data, model, regions)
    states = torch.randn(5, 32)
    with torch.no_grad():
        said = torch.zeros(5, 384)
        expected = model.scorer.reader.held_against(states, said) - model.scorer.reader.estimate(states)
        torch.testing.assert_close(model.scorer.reader.likelihoods(states, said), expected)


def _deviation_of_sums(data, model, regions):
    import torch

    reader = model.scorer.reader
    with torch.no_grad():
        before, _ = reader.before_and_said(data.words_of(np.arange(400))[0])
        states = reader.leave(reader.look(reader.read(before), regions[data.image_of_text]))
        return float(reader.sums(states).std())


def test_the_same_seed_fits_the_same(trained):
    from retrieval.training.fitting.estimate import fit_estimate

    data, model = trained
    found = []
    for seed in (1, 1, 2):
        fit_estimate(model.scorer, model.inputs, data, seed)
        found.append(model.scorer.reader.rest[0].weight.detach().numpy().copy())
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_of_a_rest_that_is_known_it_is_the_exact_sum(trained):
    """The leading half of the vocabulary summed, and of the other half exactly what it is."""
    import torch

    _, model = trained
    reader, states = model.scorer.reader, torch.randn(6, 32)
    with torch.no_grad():
        reader.leading.copy_(reader.vocabulary[: len(reader.leading)])
        rest, reader.rest = reader.rest, exact_rest(reader)
        found = reader.estimate(states)
        reader.rest = rest
        torch.testing.assert_close(found, reader.sums(states))


def exact_rest(reader):
    import torch

    class Rest(torch.nn.Module):
        def forward(self, states):
            outputs, common = reader.weigh(reader.vocabulary[len(reader.leading) :])
            return (states @ outputs.T + common).logsumexp(-1, keepdim=True)

    return Rest()
