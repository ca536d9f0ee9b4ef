"""The reader in int8, against the reader."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.encoders import load_encoder
from retrieval.images import decode
from retrieval.samples import gather_samples
from tests.retrieval.training.scorers import texts_of

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("without_gradients")]


def test_but_for_rounding_it_is_the_reader(rounded, monkeypatch):
    from retrieval.training.fitting.ranges import RangeRecorder
    from retrieval.training.model import integer_reader

    data, model, stored = rounded
    monkeypatch.setattr(integer_reader, "rounded", lambda weight: (weight, 1.0))
    unrounded = RangeRecorder(model.scorer)
    regions = model.scorer.regions.restored(stored[:30])
    texts = texts_of(data)
    longer_than_is_read = texts[0][:3].repeat(20, 1)
    for tokens in [*texts, longer_than_is_read]:
        expected = model.scorer.reader(tokens, regions)
        np.testing.assert_allclose(unrounded(tokens, stored[:30]), expected, atol=1e-4, rtol=1e-4)


def test_rounding_changes_little(rounded):
    from retrieval.training.model.integer_reader import IntegerReader

    data, model, stored = rounded
    regions, reader = model.scorer.regions.restored(stored), IntegerReader(model.scorer)
    logits = np.stack([reader(tokens, stored) for tokens in texts_of(data)])
    expected = np.stack([model.scorer.reader(tokens, regions) for tokens in texts_of(data)])
    assert np.sqrt(np.square(logits - expected).mean()) < 0.02
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.99


def test_the_scorer_that_ships_says_in_int8_what_it_would_in_float32(tmp_path):
    import torch

    from retrieval.encoders.lite import HEADS
    from retrieval.fusion.scorer import FusionScorer
    from retrieval.sample_texts import sample_texts
    from retrieval.training.stored_model import read_model

    encoder, (model, _) = load_encoder("lite", "cpu"), read_model(HEADS)
    photos = [decode(path.read_bytes(), 224) for path in gather_samples(tmp_path)]
    stored = encoder.encode_images([encoder.prepare(photo) for photo in photos]).regions
    texts, scorer = encoder.encode_texts(sample_texts(20)), FusionScorer(HEADS)
    regions = model.scorer.regions.restored(torch.from_numpy(stored))
    for row in range(20):
        text = texts.of(row)
        logits = scorer.fusion(text, stored)
        expected = model.scorer.reader(torch.from_numpy(text.tokens[0][text.mask[0]]), regions).numpy()
        assert np.abs(logits - expected).max() < 0.12
        assert np.square(logits - expected).mean() < 0.05**2 and expected.std() > 0.3
        assert np.corrcoef(logits, expected)[0, 1] > 0.997


def test_a_text_without_tokens_scores_nought(rounded):
    import torch

    from retrieval.training.model.integer_reader import IntegerReader

    _, model, stored = rounded
    bos_eos = torch.nn.functional.pad(torch.randn(2, 384), (0, 384))
    assert not IntegerReader(model.scorer)(bos_eos, stored[:3]).any()
