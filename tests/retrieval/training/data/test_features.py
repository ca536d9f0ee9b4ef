"""Features of `lite`'s towers."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.encoders.lite import LiteEncoder
from retrieval.images import decode

pytestmark = pytest.mark.torch


def test_features_are_computed_once_and_are_those_of_the_towers(sample_set, tmp_path, monkeypatch):
    from retrieval.training.data.features import cached_features
    from retrieval.training.data.towers import LiteTowers

    encoder = LiteEncoder(device="cpu")
    features = cached_features([sample_set], LiteTowers(encoder), tmp_path, 2)
    first = sample_set.images[0]
    prepared = encoder.prepare(decode((sample_set.images_dir / first.image).read_bytes(), 224))
    logits = encoder.maps([prepared], ["logits"])[0][0]
    np.testing.assert_allclose(features.global_features[0, 0], logits, atol=0.02)
    texts = encoder.text_tower.encode(list(first.captions))
    np.testing.assert_allclose(features.text_embeddings[:2], texts.embeddings, atol=1e-3)
    tokens, mask = features.tokens_of([0, 1])
    np.testing.assert_array_equal(mask.numpy(), texts.mask)
    np.testing.assert_allclose(tokens.numpy(), texts.tokens, atol=0.01)
    monkeypatch.setattr(encoder, "maps", None)  # from now on, computing would fail
    again = cached_features([sample_set], LiteTowers(encoder), tmp_path, 2)
    np.testing.assert_array_equal(again.cells, features.cells)


def test_half_computed_features_are_computed_again(sample_set, tmp_path):
    from retrieval.training.data.features import cached_features
    from retrieval.training.data.towers import LiteTowers

    encoder = LiteEncoder(device="cpu")
    cells = np.array(cached_features([sample_set], LiteTowers(encoder), tmp_path, 1).cells)
    (folder,) = (path.parent for path in tmp_path.rglob("cells.npy"))
    (folder / "complete").unlink()
    (folder / "cells.npy").write_bytes(b"half")
    np.testing.assert_array_equal(cached_features([sample_set], LiteTowers(encoder), tmp_path, 1).cells, cells)


def test_tokens_are_numbered_that_enough_captions_have():
    from retrieval.training.data.features import FEWEST_TEXTS, number_tokens

    token_ids = [[101, 5, 6, 102]] * FEWEST_TEXTS + [[101, 7, 7, 102]] * (FEWEST_TEXTS - 1) + [[101, 6, 102]]
    numbers = number_tokens(token_ids, [101, 102])
    assert numbers.tolist() == [-1, 0, 1, -1] * FEWEST_TEXTS + [-1] * 4 * (FEWEST_TEXTS - 1) + [-1, 1, -1]
