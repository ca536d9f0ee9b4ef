"""open_clip models as encoders, against open_clip itself, with random weights from a fixed seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.images import Photo

pytestmark = pytest.mark.torch
TEXTS = ["a dog!", "a cat on the beach, in the evening sun"]


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    sizes = [(300, 200), (120, 500), (64, 64)]
    return [
        Photo(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), width, height, None) for width, height in sizes
    ]


def random_model(name, half=None):
    import open_clip
    import torch

    from retrieval.encoders.openclip import OpenClipEncoder

    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=None)
    return OpenClipEncoder(name, model, preprocess, open_clip.get_tokenizer(name), {}, "cpu", half), model, preprocess


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "MobileCLIP2-S0", "coca_ViT-B-32"])
def test_embeddings_are_those_of_open_clip(name, photos):
    import open_clip
    import torch

    encoder, model, preprocess = random_model(name)
    features = encoder.encode_images([encoder.prepare(photo) for photo in photos])
    text = encoder.encode_texts(TEXTS)
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(photo.pixels)) for photo in photos])
        expected = model.encode_image(pixels, normalize=True).numpy()
        expected_text = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True).numpy()
    np.testing.assert_allclose(features.embeddings, expected, atol=1e-5)
    np.testing.assert_allclose(text.embeddings, expected_text, atol=1e-5)
    assert features.regions.shape[1:] == encoder.region_shape
    assert text.tokens.shape[:2] == text.mask.shape


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_what_a_gpu_computes_in_16_bits_stays_near(name, photos):
    full, _, _ = random_model(name)
    half, _, _ = random_model(name, half=True)
    prepared = [full.prepare(photo) for photo in photos]
    images, half_images = (encoder.encode_images(prepared) for encoder in (full, half))
    texts, half_texts = (encoder.encode_texts(TEXTS) for encoder in (full, half))
    assert half.fingerprint == full.fingerprint and half.region_shape == full.region_shape
    for features, expected in ((half_images, images), (half_texts, texts)):
        embeddings = features.embeddings
        assert embeddings.dtype == np.float32 and not np.array_equal(embeddings, expected.embeddings)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
        assert (embeddings * expected.embeddings).sum(1).min() > 0.999
    assert half_images.regions.dtype == np.float16


def test_a_model_directory_is_an_encoder(tiny_clip, photos):
    encoder = load_encoder(str(tiny_clip))
    assert encoder.name == str(tiny_clip)
    assert (encoder.dim, encoder.region_shape, encoder.image_size) == (32, (16, 48), 64)
    assert encoder.encode_images([encoder.prepare(photos[0])]).embeddings.shape == (1, 32)


def test_regions_are_the_last_map_row_by_row(tiny_clip, photos):
    import torch

    from retrieval.encoders.openclip_loading import load_openclip

    encoder = load_openclip(str(tiny_clip), "cpu")
    prepared = encoder.prepare(photos[0])
    visual = encoder.model.visual
    visual.output_tokens = True
    with torch.no_grad():
        _, patches = visual(torch.from_numpy(prepared)[None])
    visual.output_tokens = False
    regions = encoder.encode_images([prepared]).regions[0].astype(np.float32)
    np.testing.assert_allclose(regions, visual.ln_post(patches)[0].detach().numpy(), atol=0.02)


def test_the_fingerprint_follows_weights_and_not_names(tiny_clip, tmp_path):
    from safetensors.torch import load_file, save_file

    before = load_encoder(str(tiny_clip)).fingerprint
    (tmp_path / "open_clip_config.json").write_text((tiny_clip / "open_clip_config.json").read_text())
    weights = load_file(tiny_clip / "open_clip_model.safetensors")
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    assert load_encoder(str(tmp_path)).fingerprint == before
    weights["logit_scale"] += 1
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    assert load_encoder(str(tmp_path)).fingerprint != before


def test_the_mask_covers_the_tokens_and_not_the_padding(tiny_clip):
    features = load_encoder(str(tiny_clip)).encode_texts(["dog", "dog!!", "a dog"])
    assert features.mask.sum(axis=1).tolist() == [3, 4, 4]  # with BOS and EOS; "!!" is one token
    assert features.truncated.tolist() == [False, False, False]
    assert load_encoder(str(tiny_clip)).encode_texts(["dog " * 99]).truncated.tolist() == [True]


def test_it_indexes_and_searches(tiny_clip, tmp_path):
    from retrieval.engine import Engine
    from retrieval.indexing.pipeline import index_folders
    from tests.support import write_photos

    write_photos(tmp_path / "photos", 5)
    encoder = load_encoder(str(tiny_clip))
    index_folders([tmp_path / "photos"], tmp_path / "c", encoder)
    assert len(Engine.open(tmp_path / "c").search("a dog")) == 5
    with pytest.raises(CrosslookError, match="model .*tiny-clip.*, not lite"):
        Engine.open(tmp_path / "c", model="lite")


def test_another_architecture_with_the_same_weights_is_another_fingerprint(tiny_clip, tmp_path):
    import shutil

    shutil.copytree(tiny_clip, tmp_path / "quick")
    config = json.loads((tiny_clip / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (tmp_path / "quick" / "open_clip_config.json").write_text(json.dumps(config))
    assert load_encoder(str(tmp_path / "quick")).fingerprint != load_encoder(str(tiny_clip)).fingerprint


def test_a_collection_can_be_searched_after_its_model_directory_was_moved(tiny_clip, tmp_path):
    import shutil

    from retrieval.engine import Engine
    from retrieval.indexing.pipeline import index_folders
    from tests.support import write_photos

    shutil.copytree(tiny_clip, tmp_path / "here")
    write_photos(tmp_path / "photos", 3)
    index_folders([tmp_path / "photos"], tmp_path / "c", load_encoder(str(tmp_path / "here")))
    (tmp_path / "here").rename(tmp_path / "moved")
    assert len(Engine.open(tmp_path / "c", model=str(tmp_path / "moved")).search("a dog")) == 3


def test_a_text_tower_without_token_vectors_is_refused_at_once(tiny_clip):
    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.encoders.openclip_loading import load_openclip

    encoder = load_openclip(str(tiny_clip), "cpu")

    class NoTokens:
        context_length = 16

        def __call__(self, texts):
            raise AttributeError("no forward_intermediates")

    with pytest.raises(CrosslookError, match="without a Hugging Face text tower"):
        OpenClipEncoder("some", encoder.model, encoder.preprocess, NoTokens(), {}, "cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-33:openai", "did you mean ViT-B-32"),
        ("ViT-B-32:nonsense", "use one of openai, "),
        ("ViT-B-32:", "use one of openai, "),
        ("ViT-B-32:laion2b_s34b_b79k", "check the network"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line_with_a_remedy(name, message):
    with pytest.raises(CrosslookError, match=rf"^[^\n]*{message}[^\n]*$"):
        load_encoder(name)


def test_a_directory_without_weights_says_so(tmp_path, tiny_clip):
    (tmp_path / "open_clip_config.json").write_text((tiny_clip / "open_clip_config.json").read_text())
    with pytest.raises(CrosslookError, match="open_clip_config.json and weights"):
        load_encoder(str(tmp_path))


def test_cuda_that_is_not_there_is_refused(tiny_clip, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CrosslookError, match="--device cpu"):
        load_encoder(str(tiny_clip), "cuda")
