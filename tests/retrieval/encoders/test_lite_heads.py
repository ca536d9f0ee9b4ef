"""The embedded encoder with its trained heads, as it ships, without torch."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.lite import HEADS, LiteEncoder
from retrieval.fusion import own_scorer
from retrieval.images import decode
from retrieval.samples import gather_samples


@pytest.fixture(scope="module")
def trained():
    return load_encoder("lite", "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory, trained):
    paths = gather_samples(tmp_path_factory.mktemp("samples"))
    return {path.stem: trained.prepare(decode(path.read_bytes(), 224)) for path in paths}


def test_what_ships_is_small_and_is_what_the_configuration_says():
    config = json.loads((HEADS / "config.json").read_text())
    onnx = {"image_head.onnx", "text_head.onnx", "scorer.onnx", "explainer.onnx"}
    assert set(config["sha256"]) == {*onnx, "model.safetensors"}
    for name, checksum in config["sha256"].items():
        assert hashlib.sha256((HEADS / name).read_bytes()).hexdigest() == checksum
    assert sum(path.stat().st_size for path in HEADS.iterdir()) <= 20e6


def test_an_image_is_encoded_alike_alone_and_among_others(trained, photos):
    together = trained.encode_images(list(photos.values()))
    assert together.regions.dtype == np.int8 and together.regions[0].nbytes <= 16_000
    np.testing.assert_allclose(np.linalg.norm(together.embeddings, axis=1), 1, atol=1e-5)
    for index, alone in enumerate(photos.values()):
        features = trained.encode_images([alone])
        np.testing.assert_array_equal(features.embeddings[0], together.embeddings[index])
        np.testing.assert_array_equal(features.regions[0], together.regions[index])


def test_a_text_is_encoded_alike_alone_and_among_others(trained):
    texts = ["a dog", "a cup of coffee on a wooden table next to a book", "cat"] * 10
    together = trained.encode_texts(texts)
    for index, text in enumerate(texts[:3]):
        np.testing.assert_allclose(trained.encode_texts([text]).embeddings[0], together.embeddings[index], atol=1e-5)


@pytest.mark.parametrize(("query", "photo"), [("a cat", "chelsea"), ("a cup of coffee", "coffee")])
def test_a_sample_photo_is_found_by_what_it_shows(trained, photos, query, photo):
    embeddings = trained.encode_images(list(photos.values())).embeddings
    best = int((embeddings @ trained.encode_texts([query]).embeddings[0]).argmax())
    assert list(photos)[best] == photo


def test_a_text_without_words_scores_nought_and_others_do_not(trained, photos):
    regions, scorer = trained.encode_images(list(photos.values())).regions, own_scorer(trained)
    assert scorer is not None
    for text, has_words in (("\u200b", False), ("cat", True), ("a dog " * 200, True)):
        fusion = scorer.fusion(trained.encode_texts([text]), regions)
        assert fusion.shape == (len(photos),) and fusion.any() == has_words and np.isfinite(fusion).all()


def test_the_towers_alone_are_another_model(trained):
    untrained = load_encoder("lite-untrained")
    assert untrained.name == "lite-untrained" and untrained.fingerprint != trained.fingerprint


def test_heads_of_other_towers_are_refused(tmp_path):
    shutil.copytree(HEADS, tmp_path / "heads")
    config = json.loads((HEADS / "config.json").read_text()) | {"towers": "0" * 16}
    (tmp_path / "heads" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CrosslookError, match="another version of lite"):
        LiteEncoder(heads=tmp_path / "heads")
