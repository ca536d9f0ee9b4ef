"""Inference over a set of features, against one pair at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.retrieval.training.made_up import made_up

pytestmark = pytest.mark.torch


def test_pairs_at_once_are_scored_as_each_by_itself(monkeypatch):
    import torch

    from retrieval.training import inference
    from retrieval.training.model.model import FusionNetwork, ModelSettings

    monkeypatch.setattr(inference, "PAIRS_AT_ONCE", 7)
    data, rng = made_up(20), np.random.default_rng(0)
    data = replace(data, starts=np.cumsum([0, *np.tile([2, 4, 5, 1], 10)]))
    torch.manual_seed(0)
    scorer = FusionNetwork(data.vocabulary, ModelSettings()).eval()
    regions = torch.nn.functional.normalize(torch.randn(20, 49, 256), dim=-1)
    texts, images = rng.integers(40, size=(6, 5)), rng.integers(20, size=5)
    logits = inference.fusion_of(scorer, data, texts, images, regions)
    for row, column in np.ndindex(6, 5):
        start, end = data.starts[texts[row, column] :][:2]
        tokens = torch.from_numpy(data.tokens[start:end].astype(np.float32))
        with torch.inference_mode():
            alone = scorer.reader(tokens, regions[images[column]][None])[0]
        assert logits[row, column] == pytest.approx(float(alone), abs=1e-4)
