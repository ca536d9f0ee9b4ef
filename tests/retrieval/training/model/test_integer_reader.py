"""The reader in integers, against the reader."""

from __future__ import annotations

import numpy as np
import pytest

from cli.demo import gather_samples
from retrieval.encoders import load_encoder
from retrieval.images import decode
from tests.retrieval.training.made_up import classes, made_up, settings

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import torch

    from retrieval.training.fitting.estimate import fit_estimate
    from retrieval.training.inference import regions_of
    from retrieval.training.learning.train import train
    from retrieval.training.model.integer_reader import fit_ranges

    data = made_up(200)
    data.numbers[:] = np.arange(len(data.numbers)) % 40
    model, _ = train(data, made_up(20, seed=1), classes(), tmp_path_factory.mktemp("run"), settings(epochs=2))
    fit_estimate(model.scorer, model.inputs, data, seed=0)
    fit_ranges(model.scorer, model.inputs, data, seed=0)
    with torch.no_grad():
        stored = model.scorer.regions.stored(regions_of(model.inputs, model.scorer, data)).clone()
    return data, model.eval(), stored


@pytest.fixture(autouse=True)
def without_gradients():
    import torch

    with torch.no_grad():
        yield


def texts(data, count=20):
    """Words with the mark of the end, which those made up have not."""
    import torch

    return [torch.nn.functional.pad(data.words_of(np.array([text]))[0][0], (0, 0, 0, 1)) for text in range(count)]


def test_but_for_rounding_it_is_the_reader(trained, monkeypatch):
    from retrieval.training.model.model import integer_reader

    data, model, stored = trained
    monkeypatch.setattr(integer_reader, "rounded", lambda weight: (weight, 1.0))
    unrounded = integer_reader._Observer(model.scorer)
    regions = model.scorer.regions.restored(stored[:30])
    for words in [*texts(data), texts(data)[0][:3].repeat(20, 1)]:  # the last longer than is read
        expected = model.scorer.reader(words, regions)
        np.testing.assert_allclose(unrounded(words, stored[:30]), expected, atol=1e-4, rtol=1e-4)


def test_rounding_changes_little(trained):
    from retrieval.training.model.integer_reader import IntegerReader

    data, model, stored = trained
    regions, reader = model.scorer.regions.restored(stored), IntegerReader(model.scorer)
    found = np.stack([reader(words, stored) for words in texts(data)])
    expected = np.stack([model.scorer.reader(words, regions) for words in texts(data)])
    assert np.sqrt(np.square(found - expected).mean()) < 0.02
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_what_ships_says_in_integers_what_it_would_in_floats(tmp_path):
    import torch

    from retrieval.encoders.lite import HEADS
    from retrieval.fusion.scorer import FusionScorer
    from retrieval.sample_texts import sample_texts
    from retrieval.training.export import read_model

    encoder, (model, _) = load_encoder("lite", "cpu"), read_model(HEADS)
    photos = [decode(path.read_bytes(), 224) for path in gather_samples(tmp_path)]
    stored = encoder.encode_images([encoder.prepare(photo) for photo in photos]).tokens
    texts, scorer = encoder.encode_texts(sample_texts(20)), FusionScorer(HEADS)
    regions = model.scorer.regions.restored(torch.from_numpy(stored))
    for row in range(20):
        words = texts.of(row)
        found = scorer.fusion(words, stored)
        expected = model.scorer.reader(torch.from_numpy(words.tokens[0][words.mask[0]]), regions).numpy()
        assert np.abs(found - expected).max() < 0.12
        assert np.square(found - expected).mean() < 0.05**2 and expected.std() > 0.3
        assert np.corrcoef(found, expected)[0, 1] > 0.997


def test_ranges_hold_nearly_all_that_is_rounded(trained, monkeypatch):
    """All values at each place, of other texts."""
    from retrieval.training.model.model import integer_reader
    from retrieval.training.model.rounding import OUTSIDE

    data, model, stored = trained
    monkeypatch.setattr(integer_reader, "SAMPLED", 10**9)
    observer = integer_reader._Observer(model.scorer)
    for words in texts(data, 60):
        observer(words, stored[:20])
    for samples, (low, high) in zip(observer.samples, model.scorer.ranges.tolist(), strict=True):
        values = np.concatenate(samples)
        assert low < 0 < high and high - low < 1.5 * np.ptp(values)
        assert ((values < low) | (values > high)).mean() < 20 * OUTSIDE


def test_the_same_seed_fits_the_same_ranges(trained):
    from retrieval.training.model.integer_reader import fit_ranges

    data, model, _ = trained
    before = model.scorer.ranges.clone(), model.scorer.regions.scale.clone()
    fit_ranges(model.scorer, model.inputs, data, seed=0)
    assert (model.scorer.ranges == before[0]).all() and model.scorer.regions.scale == before[1]


def test_a_text_without_words_scores_nought(trained):
    import torch

    from retrieval.training.model.integer_reader import IntegerReader

    _, model, stored = trained
    words = torch.nn.functional.pad(torch.randn(2, 384), (0, 384))
    assert not IntegerReader(model.scorer)(words, stored[:3]).any()
