"""open_clip models on ONNX Runtime, against the same models on torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.openclip_onnx import (
    CONFIG,
    IMAGE,
    REFUSED,
    TEXT,
    TOKENIZER,
    ExportedEncoder,
    cleaned,
    export_folder,
    find_export,
)
from retrieval.encoders.preprocessing import Preprocessing
from retrieval.images import Photo
from tests.tiny_clip import TINY_CLIP

pytestmark = pytest.mark.torch
TEXTS = [
    "a dog!",
    "A  Café,\tin the evening -- isn't it?",
    "",
    "dog " * 99,
    "日本の猫 100%",
    "a dog’s “bone” &amp; a ﬁre",
]


@pytest.fixture
def photos():
    rng = np.random.default_rng(0)
    sizes = [(300, 200), (120, 500), (64, 64), (65, 64)]
    return [
        Photo(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), width, height, None) for width, height in sizes
    ]


@pytest.fixture(params=[16, 4], ids=["4x4 cells", "16x16 cells"])
def clip(request, tmp_path):
    """A tiny CLIP whose map has fewer cells than 7x7, and one whose map 7 does not divide."""
    import torch
    from open_clip import CLIP
    from safetensors.torch import save_file

    config = json.loads(json.dumps(TINY_CLIP))
    config["vision_cfg"]["patch_size"] = request.param
    torch.manual_seed(0)
    (tmp_path / "clip").mkdir()
    save_file(CLIP(**config).state_dict(), tmp_path / "clip" / "open_clip_model.safetensors")
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return tmp_path / "clip"


def test_it_gives_what_torch_gives(clip, photos, monkeypatch):
    from retrieval.encoders import openclip_export
    from retrieval.encoders.openclip_loading import load_openclip

    monkeypatch.setattr(openclip_export, "quantize", lambda *arguments: None)
    export, on_torch = load_encoder(str(clip)), load_openclip(str(clip), "cpu")
    assert isinstance(export, ExportedEncoder)
    for name in ("name", "fingerprint", "dim", "region_shape", "region_dtype", "image_size", "max_tokens"):
        assert getattr(export, name) == getattr(on_torch, name)
    config = json.loads((export_folder(str(clip)) / "config.json").read_text())
    assert (tuple(config["token_shape"]), config["token_dtype"]) == (on_torch.region_shape, on_torch.region_dtype)
    prepared = [export.prepare(photo) for photo in photos]
    np.testing.assert_allclose(prepared, [on_torch.prepare(photo) for photo in photos], atol=1e-6)
    images, expected = export.encode_images(prepared), on_torch.encode_images(prepared)
    np.testing.assert_allclose(images.embeddings, expected.embeddings, atol=1e-4)
    np.testing.assert_allclose(images.regions.astype(float), expected.regions.astype(float), atol=5e-3)
    assert images.regions.dtype == expected.regions.dtype
    texts, expected_texts = export.encode_texts(TEXTS), on_torch.encode_texts(TEXTS)
    np.testing.assert_array_equal(export.token_ids(TEXTS)[0], on_torch.tokenizer(TEXTS).numpy())
    np.testing.assert_allclose(texts.embeddings, expected_texts.embeddings, atol=1e-4)
    np.testing.assert_allclose(texts.tokens, expected_texts.tokens, atol=1e-3)
    np.testing.assert_array_equal(texts.mask, expected_texts.mask)
    np.testing.assert_array_equal(texts.truncated, expected_texts.truncated)


def test_with_int8_weights_it_gives_nearly_the_same(clip, photos):
    import onnx

    from retrieval.encoders.openclip_loading import load_openclip

    export, on_torch = load_encoder(str(clip)), load_openclip(str(clip), "cpu")
    prepared = [on_torch.prepare(photo) for photo in photos]
    images, expected = export.encode_images(prepared).embeddings, on_torch.encode_images(prepared).embeddings
    texts, expected_texts = export.encode_texts(TEXTS).embeddings, on_torch.encode_texts(TEXTS).embeddings
    assert (images * expected).sum(axis=1).min() > 0.999 and (texts * expected_texts).sum(axis=1).min() > 0.999
    for name in (IMAGE, TEXT):
        kinds = [node.op_type for node in onnx.load(export_folder(str(clip)) / name).graph.node]
        assert kinds.count("MatMulNBits") >= 8 and "Gemm" not in kinds
    assert not (export_folder(str(clip)) / "int8").exists()


def test_where_int8_is_too_far_off_weights_stay_as_they_are(clip, monkeypatch):
    import onnx

    from retrieval.encoders import openclip_quantization

    monkeypatch.setattr(openclip_quantization, "TOLERANCE", 1e-9)
    load_encoder(str(clip))
    kinds = [node.op_type for node in onnx.load(export_folder(str(clip)) / TEXT).graph.node]
    assert "MatMulNBits" not in kinds and not (export_folder(str(clip)) / "int8").exists()


def test_an_image_does_not_depend_on_its_neighbours(clip, photos):
    encoder = load_encoder(str(clip))
    prepared = [encoder.prepare(photo) for photo in photos]
    together = encoder.encode_images(prepared)
    for index, image in enumerate(prepared):
        np.testing.assert_array_equal(encoder.encode_images([image]).embeddings[0], together.embeddings[index])
    texts = encoder.encode_texts(TEXTS)
    for index, text in enumerate(TEXTS):
        np.testing.assert_array_equal(encoder.encode_texts([text]).embeddings[0], texts.embeddings[index])


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_is_that_of_open_clip(photos, squash, interpolation):
    from open_clip.transform import image_transform
    from PIL import Image

    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    mode = "squash" if squash else "shortest"
    transform = image_transform(48, False, mean, std, resize_mode=mode, interpolation=interpolation)
    preprocessing = Preprocessing(48, interpolation, squash, mean, std)
    for photo in photos:
        np.testing.assert_allclose(preprocessing(photo), transform(Image.fromarray(photo.pixels)).numpy(), atol=1e-6)


def test_the_second_time_torch_is_not_needed(clip):
    load_encoder(str(clip))
    script = """
import sys
for name in ("torch", "open_clip", "timm", "transformers"):
    sys.modules[name] = None
from retrieval.encoders import load_encoder
print(load_encoder(sys.argv[1]).encode_texts(["a dog"]).embeddings.shape)
"""
    run = subprocess.run([sys.executable, "-c", script, str(clip)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(1, 32)"


def test_other_weights_are_another_export(clip):
    from safetensors.torch import load_file, save_file

    before, folder = load_encoder(str(clip)), export_folder(str(clip))
    weights = load_file(clip / "open_clip_model.safetensors")
    weights["text_projection"] = -weights["text_projection"]
    save_file(weights, clip / "open_clip_model.safetensors")
    assert export_folder(str(clip)) != folder and find_export(str(clip)) is None
    after = load_encoder(str(clip))
    assert after.fingerprint != before.fingerprint
    assert np.abs(after.encode_texts(["a"]).embeddings - before.encode_texts(["a"]).embeddings).max() > 1e-3


def test_a_model_whose_export_differs_stays_on_torch_and_is_not_tried_again(clip, monkeypatch):
    from retrieval.encoders import openclip_export
    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.encoders.openclip_graphs import write_graphs

    def write_wrongly(encoder, folder):
        write_graphs(encoder, folder)
        config = json.loads((folder / CONFIG).read_text())
        config["preprocessing"]["mean"] = [0.5, 0.5, 0.5]
        (folder / CONFIG).write_text(json.dumps(config))

    monkeypatch.setattr(openclip_export, "write_graphs", write_wrongly)
    assert isinstance(load_encoder(str(clip)), OpenClipEncoder)
    assert "the pictures differ by" in (export_folder(str(clip)) / REFUSED).read_text()
    monkeypatch.setattr(openclip_export, "write_graphs", lambda *arguments: pytest.fail("tried again"))
    assert isinstance(load_encoder(str(clip)), OpenClipEncoder)


@pytest.mark.parametrize(
    "damage", [lambda folder: (folder / CONFIG).write_text("{"), lambda folder: (folder / CONFIG).unlink()]
)
def test_an_export_that_cannot_be_read_is_made_again(clip, damage):
    before = load_encoder(str(clip)).encode_texts(["a dog"]).embeddings
    damage(export_folder(str(clip)))
    encoder = load_encoder(str(clip))
    assert isinstance(encoder, ExportedEncoder)
    np.testing.assert_array_equal(encoder.encode_texts(["a dog"]).embeddings, before)


@pytest.mark.parametrize("name", [TEXT, TOKENIZER])
def test_what_is_damaged_after_it_was_checked_says_what_to_delete(clip, name):
    encoder = load_encoder(str(clip))
    folder = export_folder(str(clip))
    (folder / name).write_bytes(b"{")
    with pytest.raises(CrosslookError, match=f"delete {folder}"):
        encoder.encode_texts(["a dog"])


def test_an_export_is_noted_once_and_other_files_do_not_count(clip):
    notes: list[str] = []
    load_encoder(str(clip), note=notes.append)
    (clip / "README").write_text("about it")
    load_encoder(str(clip), note=notes.append)
    assert len(notes) == 1 and str(clip) in notes[0]


def test_on_a_gpu_it_is_torch(clip, monkeypatch):
    calls = []
    monkeypatch.setattr("indexes.on_device.gpus.GPUS", (clip,))
    monkeypatch.setattr("retrieval.encoders.openclip_loading.load_openclip", lambda *arguments: calls.append(arguments))
    load_encoder(str(clip))
    assert calls == [(str(clip), "auto")]


def test_a_cache_that_cannot_be_written_does_not_keep_a_model_from_loading(clip, monkeypatch, tmp_path):
    from retrieval.encoders.openclip import OpenClipEncoder

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert isinstance(load_encoder(str(clip)), OpenClipEncoder)


def test_a_failure_of_the_moment_is_not_remembered(clip, monkeypatch):
    from retrieval.encoders import openclip_export
    from retrieval.encoders.openclip import OpenClipEncoder

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(openclip_export, "write_graphs", full)
        assert isinstance(load_encoder(str(clip)), OpenClipEncoder)
    assert isinstance(load_encoder(str(clip)), ExportedEncoder)


@pytest.mark.parametrize("how", ["lower", "whitespace", "canonicalize"])
def test_texts_are_cleaned_as_open_clip_does(how):
    from open_clip.tokenizer import get_clean_fn

    for text in (*TEXTS, "snake_case, {x}", "  <b>&amp;amp;</b>  ", "ΣΊΣΥΦΟΣ", "schÃ¶n"):
        assert cleaned(text, how) == get_clean_fn(how)(text)
