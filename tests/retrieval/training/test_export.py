"""Model directories: the exported graphs, against the torch modules that they were made of."""

from __future__ import annotations

import json

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.lite import LiteEncoder
from retrieval.fusion import EncodedQuery, own_scorer
from retrieval.images import decode
from retrieval.query import Query
from tests.retrieval.encoders.small_gpu import SmallGpu
from tests.retrieval.training.photo_runs import one_epoch, train_once

pytestmark = pytest.mark.torch

GRAPHS = ["explainer.onnx", "image_head.onnx", "scorer.onnx", "text_head.onnx"]


@pytest.fixture(scope="module")
def trained(sample_set, tmp_path_factory):
    """A model directory of `lite`. Do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    train_once(sample_set, folder / "model", folder / "cache")
    return folder / "model"


def prepared_photos(sample_set, encoder):
    paths = [sample_set.images_dir / image.image for image in sample_set.images]
    return [encoder.prepare(decode(path.read_bytes(), encoder.image_size)) for path in paths]


def test_a_model_directory_stores_weights_once(trained):
    files = ["README.md", "config.json", "log.jsonl", "model.safetensors", *GRAPHS]
    assert sorted(path.name for path in trained.iterdir()) == sorted(files)
    size = sum((trained / name).stat().st_size for name in GRAPHS)
    assert size < 0.1 * (trained / "model.safetensors").stat().st_size
    assert load_encoder(str(trained)).fingerprint != load_encoder("lite-untrained").fingerprint


def test_a_trained_encoder_runs_as_torch_says(sample_set, trained):
    import torch

    from retrieval.training.data.cells import Cells
    from retrieval.training.stored_model import read_model

    encoder, (model, embedder) = load_encoder(str(trained)), read_model(trained)
    assert isinstance(encoder, LiteEncoder) and embedder is not None
    prepared = prepared_photos(sample_set, encoder)
    logits, *maps = encoder.maps(prepared, ["logits", "stride8", "stride16", "stride32"])
    captions = ["a dog", "a cup of coffee on a table"]
    texts = encoder.text_tower.encode(captions)
    with torch.no_grad():
        cells, classes = model.inputs(
            Cells()(torch.from_numpy(np.stack(prepared)), *map(torch.from_numpy, maps)), torch.from_numpy(logits)
        )
        by_heads = model.heads.images(cells, classes, torch.from_numpy(logits))
        images = embedder.images([*by_heads, model.heads.conse(torch.from_numpy(logits))]).numpy()
        regions = model.scorer.regions.stored(model.scorer.regions(cells, classes))
        of_texts = model.heads.texts(*map(torch.from_numpy, (texts.embeddings, texts.tokens, texts.mask)))
        by_tower = torch.from_numpy(texts.embeddings)
        expected = embedder.texts([*of_texts, by_tower], model.heads.familiarity(by_tower)).numpy()
    together = encoder.encode_images(prepared)
    np.testing.assert_allclose(together.embeddings, images, atol=1e-3)
    assert together.regions.dtype == np.int8 and together.regions.shape == (18, 49, 256)
    assert np.abs(together.regions.astype(int) - regions.numpy()).max() <= 2
    np.testing.assert_allclose(encoder.encode_texts(captions).embeddings, expected, atol=1e-3)
    for index, photo in enumerate(prepared):
        alone = encoder.encode_images([photo])
        np.testing.assert_array_equal(alone.embeddings[0], together.embeddings[index])
        np.testing.assert_array_equal(alone.regions[0], together.regions[index])


def test_a_trained_scorer_runs_and_explains_as_torch_says(sample_set, trained):
    import torch

    from retrieval.training.export import Explainer
    from retrieval.training.model.integer_reader import IntegerReader
    from retrieval.training.stored_model import read_model

    encoder, (model, _) = load_encoder(str(trained)), read_model(trained)
    regions = encoder.encode_images(prepared_photos(sample_set, encoder)).regions
    captions = ["a dog", "a cup of coffee on a table"]
    texts, scorer = encoder.encode_texts(captions), own_scorer(encoder)
    assert scorer is not None
    for row, caption in enumerate(captions):
        text = texts.of(row)
        tokens = torch.from_numpy(text.tokens[0])
        with torch.no_grad():
            expected = IntegerReader(model.scorer)(tokens, torch.from_numpy(regions))
            logit, lost = Explainer(model.scorer)(tokens, torch.from_numpy(regions[3]))
        logits = scorer.fusion(text, regions)
        np.testing.assert_allclose(logits, expected, atol=1e-2)  # a last bit may round to the other side
        for index, alone in enumerate(regions):
            np.testing.assert_allclose(scorer.fusion(text, alone[None]), logits[index], atol=1e-3)
        evidence = scorer.explain(EncodedQuery(Query.of(caption), text), np.float32(0), regions[3])
        assert evidence is not None
        assert evidence.fusion == pytest.approx(float(logit), abs=1e-3)
        np.testing.assert_allclose(evidence.lost, lost, atol=1e-3)


def test_a_scorer_for_another_encoder_runs_as_torch_says(sample_set, tiny_clip, tmp_path, monkeypatch):
    import torch

    from retrieval.encoders.adapted import AdaptedEncoder
    from retrieval.encoders.adapter_torch import DeviceAdapter
    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.training.model.integer_reader import IntegerReader
    from retrieval.training.run import train_model
    from retrieval.training.stored_model import read_model

    clip, out = load_openclip(str(tiny_clip), "cpu"), tmp_path / "scorer"
    train_model([sample_set], clip, out, one_epoch(), views=3, cache=tmp_path / "cache")
    encoder, (model, embedder) = load_encoder(str(out), "cpu"), read_model(out)
    assert embedder is None and not model.heads.image
    prepared, plain = prepared_photos(sample_set, encoder), load_encoder(str(tiny_clip), "cpu")
    adapted, expected = encoder.encode_images(prepared), plain.encode_images(prepared)
    np.testing.assert_array_equal(adapted.embeddings, expected.embeddings)
    with torch.no_grad():
        cells, embeddings = torch.from_numpy(expected.regions.astype(np.float32)), torch.from_numpy(expected.embeddings)
        regions = model.scorer.regions.stored(model.scorer.regions(*model.inputs(cells, embeddings)))
    assert adapted.regions.dtype == np.int8 and adapted.regions.shape == (len(prepared), 16, 256)
    assert np.abs(adapted.regions.astype(int) - regions.numpy()).max() <= 2
    plain.takes_pixels = True  # as on a GPU
    monkeypatch.setattr("retrieval.encoders.adapted.gpu_of_torch", lambda device: torch.device("cpu"))
    monkeypatch.setattr("retrieval.encoders.adapted.open_session", None)
    on_torch = AdaptedEncoder(out, json.loads((out / "config.json").read_text()), plain, "auto").encode_images(prepared)
    assert on_torch.regions.dtype == np.int8 and on_torch.regions.shape == adapted.regions.shape
    assert np.abs(adapted.regions.astype(int) - on_torch.regions).max() <= 2
    on_small = DeviceAdapter(out, torch.device("cpu"))
    monkeypatch.setattr(on_small, "compute", SmallGpu(on_small.compute, 1))
    regions_of_small = on_small(expected.regions, expected.embeddings)
    assert np.abs(on_torch.regions.astype(int) - regions_of_small).max() <= 1
    monkeypatch.setattr(on_small, "compute", SmallGpu(None, 0))
    with pytest.raises(CrosslookError, match="^the GPU has too little free memory for the regions of an image: use"):
        on_small(expected.regions, expected.embeddings)
    text = encoder.encode_texts(["a cup of coffee"])
    np.testing.assert_array_equal(text.embeddings, plain.encode_texts(["a cup of coffee"]).embeddings)
    with torch.no_grad():
        logits = IntegerReader(model.scorer)(torch.from_numpy(text.tokens[0]), torch.from_numpy(adapted.regions))
    scorer = own_scorer(encoder)
    assert scorer is not None
    np.testing.assert_allclose(scorer.fusion(text, adapted.regions), logits, atol=1e-2)
    assert encoder.fingerprint != clip.fingerprint
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"towers": "0123"}))
    with pytest.raises(CrosslookError, match="train it again"):
        load_encoder(str(out), "cpu")


def test_the_weights_that_ship_have_the_names_that_this_version_writes():
    """On disk: settings and tensors, which a change of names in the code must not touch."""
    from safetensors import safe_open

    from retrieval.encoders.lite import HEADS
    from retrieval.training.stored_model import read_model
    from retrieval.training.stored_names import settings_of, stored_name, stored_settings

    model, embedder = read_model(HEADS)
    assert embedder is not None
    names = {
        f"{prefix}.{stored_name(name)}"
        for prefix, module in (("model", model), ("embedder", embedder))
        for name in module.state_dict()
    }
    with safe_open(HEADS / "model.safetensors", "np") as file:
        assert names == set(file.keys())
    stored = json.loads((HEADS / "config.json").read_text())["model"]
    assert stored_settings(model.settings) == stored and settings_of(stored) == model.settings


@pytest.mark.parametrize("damage", ["{", "{}", "[]"])
def test_a_damaged_directory_says_so(tmp_path, damage):
    (tmp_path / "config.json").write_text(damage)
    with pytest.raises(CrosslookError, match="config.json is damaged"):
        load_encoder(str(tmp_path))


def test_a_scorer_whose_encoder_was_moved_says_what_it_misses(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"kind": "scorer", "encoder": "/moved/away"}))
    with pytest.raises(CrosslookError, match="is a scorer for /moved/away"):
        load_encoder(str(tmp_path))
