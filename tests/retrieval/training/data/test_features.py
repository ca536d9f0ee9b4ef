"""Features of `lite`'s towers."""

from __future__ import annotations

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders.lite import LiteEncoder
from retrieval.images import decode
from tests.retrieval.encoders.small_gpu import SmallGpu

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
    scored = features.scored_of([0, 1])
    np.testing.assert_array_equal(scored, (tokens[..., 384:] != 0).any(-1))
    assert not scored[:, 0].any() and (scored.sum(1) == mask.numpy().sum(1) - 2).all(), "BOS and EOS have no row"
    monkeypatch.setattr(encoder, "maps", None)  # from now on, computing would fail
    again = cached_features([sample_set], LiteTowers(encoder), tmp_path, 2)
    np.testing.assert_array_equal(again.cells, features.cells)


def test_the_towers_of_lite_say_the_same_by_torch(sample_set):
    from retrieval.training.data.towers import LiteTowers

    plain, by_torch = LiteTowers(LiteEncoder(device="cpu")), LiteTowers(LiteEncoder(device="cpu"))
    by_torch.views_at_once = 4
    photos = [decode((sample_set.images_dir / image.image).read_bytes(), 224) for image in sample_set.images[:4]]
    prepared = [plain.prepare(photo) for photo in photos]
    for one, other in zip(plain.encode_images(prepared), by_torch.encode_images(prepared), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other.astype(np.float32), one, atol=0.02, rtol=2e-3)
    texts = ["a dog", "two cups of coffee on a table", "a dog"]
    (one, tokens), (other, others) = plain.encode_texts(texts), by_torch.encode_texts(texts)
    np.testing.assert_allclose(other, one, atol=1e-5)
    np.testing.assert_allclose(others.tokens, tokens.tokens, atol=1e-4)
    np.testing.assert_array_equal(others.mask, tokens.mask)


def test_the_towers_of_lite_on_a_gpu_with_little_memory(sample_set, monkeypatch):
    import torch

    from retrieval.training.data.towers import LiteOnTorch

    towers = LiteOnTorch(torch.device("cpu"))
    photos = [decode((sample_set.images_dir / image.image).read_bytes(), 224) for image in sample_set.images[:3]]
    prepared = [LiteEncoder(device="cpu").prepare(photo) for photo in photos]
    expected = towers.encode_images(prepared)
    small = SmallGpu(towers.compute, 1)
    monkeypatch.setattr(towers, "compute", small)
    for one, other in zip(towers.encode_images(prepared), expected, strict=True):
        np.testing.assert_allclose(one.astype(np.float32), other, atol=0.02, rtol=2e-3)
    assert small.calls == [1, 1, 1]
    monkeypatch.setattr(towers, "compute", SmallGpu(None, 0))
    with pytest.raises(CrosslookError, match="^the GPU has too little free memory for an image: use --device cpu$"):
        towers.encode_images(prepared)


@pytest.mark.parametrize("views_at_once", [1, 3, 7, 1000])
def test_views_of_many_images_at_once_are_those_of_each_by_itself(tmp_path, pictures, views_at_once):
    from tests.retrieval.training.data.made_up_towers import MadeUpTowers, features_of

    (pictures.images_dir / "2.png").write_bytes(b"no picture")
    alone, together = MadeUpTowers(), MadeUpTowers(views_at_once)
    expected = features_of(pictures, alone, tmp_path / "alone", 3)
    done: list[tuple[int, int]] = []
    features = features_of(pictures, together, tmp_path / "together", 3, progress=lambda *step: done.append(step))
    for name in ("cells", "global_features"):
        np.testing.assert_array_equal(getattr(features, name), getattr(expected, name))
    assert features.left_out == expected.left_out and (18, 18) in done
    assert alone.batches == [3] * 5
    assert together.batches == {1: [3] * 5, 3: [3] * 5, 7: [6, 3, 6], 1000: [15]}[views_at_once]


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
