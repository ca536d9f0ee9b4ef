"""The embedded towers against timm and transformers, which run the published weights as their authors do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import build_lite, onnx_files
from retrieval.encoders.lite import TOWERS
from retrieval.images import decode
from retrieval.samples import gather_samples

pytestmark = pytest.mark.torch
TEXTS = ["a dog", "Two children are playing football in the rain.", "a cup of coffee on a table"]


@pytest.fixture(scope="module")
def prepared(lite, tmp_path_factory):
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (224, 224, 3), dtype=np.uint8), np.full((224, 224, 3), 200, np.uint8)]
    return made + [
        lite.prepare(decode(path.read_bytes(), 224)) for path in gather_samples(tmp_path_factory.mktemp("a"))
    ]


@pytest.fixture(scope="module")
def timm_models():
    """timm's models with the published weights, whose tensors have the same order and shapes."""
    import timm
    import torch

    models = []
    for name in ("lite0", "lite2"):
        published = torch.load(build_lite.source(name), map_location="cpu", weights_only=True)
        model = timm.create_model(f"tf_efficientnet_{name}", pretrained=False)
        shapes = [tuple(value.shape) for key, value in published.items() if "num_batches" not in key]
        weights = [(key, value) for key, value in model.state_dict().items() if "num_batches" not in key]
        assert shapes == [tuple(value.shape) for _, value in weights]
        values = [value for key, value in published.items() if "num_batches" not in key]
        model.load_state_dict({key: value for (key, _), value in zip(weights, values, strict=True)}, strict=False)
        models.append(model.eval())
    return models


def test_the_image_tower_gives_what_timm_gives(lite, prepared, timm_models):
    import torch

    pixels = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2).float() / 127.5 - 1
    small, large = timm_models
    with torch.no_grad():
        expected = (small(pixels) + large(pixels)) / 2
        maps = large.forward_intermediates(pixels, indices=[2, 3, 4], intermediates_only=True)
        last = small.forward_intermediates(pixels, indices=[4], intermediates_only=True)[0]
    outputs = lite.maps(prepared, ["logits", "stride8", "stride16", "stride32"])
    # Large weights are stored as int8, the others as float16.
    for ours, theirs in zip(outputs, [expected, *maps[:2], torch.cat([maps[2], last], dim=1)], strict=True):
        theirs = theirs.numpy()
        assert ours.shape == theirs.shape
        for row, (our_map, their_map) in enumerate(zip(ours, theirs, strict=True)):
            lengths = np.linalg.norm(our_map), np.linalg.norm(their_map)
            threshold = 0.99 if row < 2 else 0.997  # noise and grey are unlike what the weights were trained on
            assert our_map.ravel() @ their_map.ravel() > threshold * lengths[0] * lengths[1]
            assert lengths[0] == pytest.approx(lengths[1], rel=0.03)


def test_the_text_tower_gives_what_transformers_gives(lite):
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = build_lite.source("text").parent
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    features = lite.encode_texts(TEXTS)
    table = model.embeddings.word_embeddings.weight.detach().numpy()
    for index, text in enumerate(TEXTS):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state[0]
        mean = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()
        assert features.embeddings[index] @ mean > 0.999
        ours, meanings = np.split(features.tokens[index][features.mask[index]], 2, axis=1)
        assert ours.shape == meanings.shape == states.shape
        cosines = (ours * states.numpy()).sum(1) / np.linalg.norm(ours, axis=1) / states.norm(dim=1).numpy()
        assert cosines.min() > 0.995
        rows = table[inputs["input_ids"][0]] - table.mean(axis=0)
        rows *= 384**0.5 / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(meanings[1:-1], rows[1:-1], atol=0.15)  # the table is int8
        assert not meanings[0].any() and not meanings[-1].any(), "[CLS] and [SEP] mean nothing"


def test_the_classifier_knows_what_is_on_sample_photos(lite, tmp_path):
    from timm.data import ImageNetInfo

    names = ImageNetInfo()
    paths = {path.stem: path for path in gather_samples(tmp_path)}
    for stem, word in {"chelsea": "cat", "coffee": "espresso", "motorcycle_left": "moped"}.items():
        logits = lite.maps([lite.prepare(decode(paths[stem].read_bytes(), 224))], ["logits"])[0][0]
        assert word in names.index_to_description(int(logits.argmax()), detailed=True)


def test_building_again_gives_what_ships(tmp_path):
    """Byte for byte, except for the last bits of folded batch norms, which depend on the processor."""
    import onnx
    from onnx import numpy_helper

    build_lite.build(tmp_path)
    same = {path.name for path in tmp_path.iterdir()} - {"image.onnx", "config.json"}
    assert len(same) == 3
    for name in same:
        assert (tmp_path / name).read_bytes() == (TOWERS / name).read_bytes(), f"{name} differs"
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path, TOWERS)]
    assert [config["sha256"].pop("image.onnx") for config in configs] == [
        onnx_files.sha256(folder / "image.onnx") for folder in (tmp_path, TOWERS)
    ]
    assert configs[0] == configs[1]
    built, shipped = (onnx.load(folder / "image.onnx") for folder in (tmp_path, TOWERS))
    for mine, theirs in zip(built.graph.initializer, shipped.graph.initializer, strict=True):
        made, meant = numpy_helper.to_array(mine), numpy_helper.to_array(theirs)
        assert mine.name == theirs.name and made.dtype == meant.dtype
        np.testing.assert_allclose(made, meant, rtol=1e-3 if meant.dtype == np.float16 else 1e-5, atol=1e-6)
        mine.raw_data = theirs.raw_data
    assert built.SerializeToString(deterministic=True) == shipped.SerializeToString(deterministic=True)


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path, monkeypatch):
    relative, _ = build_lite.SOURCES["lite0"]
    (tmp_path / relative).parent.mkdir(parents=True)
    (tmp_path / relative).write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CrosslookError, match="sha256"):
        build_lite.source("lite0")


def test_missing_weights_name_the_extra(monkeypatch):
    monkeypatch.setitem(build_lite.SOURCES, "lite0", ("no_such_package/weights.pth", ""))
    with pytest.raises(CrosslookError, match=r"crosslook\[build\]"):
        build_lite.source("lite0")
