"""BLIP's matching against transformers' own forward pass, with a tiny model of random weights."""

from __future__ import annotations

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.fusion import load_scorer
from retrieval.images import Photo

pytestmark = pytest.mark.torch

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "on", "the", "beach", "cat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model directory as the hub has them."""
    import torch
    from transformers import BertTokenizerFast, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipProcessor

    path = tmp_path_factory.mktemp("blip")
    (path / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BlipConfig(
        text_config=small
        | {"vocab_size": len(WORDS), "max_position_embeddings": 12, "encoder_hidden_size": 16, "pad_token_id": 0},
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
        image_text_hidden_size=8,
    )
    model = BlipForImageTextRetrieval(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    processor = BlipProcessor(
        BlipImageProcessor(size={"height": 32, "width": 32}), BertTokenizerFast(str(path / "vocab.txt"))
    )
    processor.save_pretrained(path)
    return path


def photos(count):
    rng = np.random.default_rng(0)
    return [
        Photo(rng.integers(0, 256, (20 + 3 * index, 40, 3), dtype=np.uint8), 40, 20, None) for index in range(count)
    ]


@pytest.mark.parametrize("text", ["a dog on the beach", "a cat", "the dog " * 20])
def test_it_scores_as_transformers_does(folder, text):
    import torch
    from transformers import BlipForImageTextRetrieval, BlipProcessor

    scorer = load_scorer(None, f"blip:{folder}", "cpu")
    seen = photos(11)  # more than go at once
    found = scorer.score_photos(text, seen)
    model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    processor = BlipProcessor.from_pretrained(folder)
    assert not scorer.calibrated and scorer.image_size == 32 and found.std() > 1e-3
    for photo, score in zip(seen, found, strict=True):
        inputs = processor(images=photo.pixels, text=text, return_tensors="pt", truncation=True, max_length=12)
        with torch.no_grad():
            matching = model(**inputs, use_itm_head=True).itm_score[0, 1]
            contrast = model(**inputs, use_itm_head=False).itm_score[0, 0]
        assert score == pytest.approx(float(matching + contrast), abs=1e-4)


def test_no_photos_give_no_scores(folder):
    assert load_scorer(None, f"blip:{folder}", "cpu").score_photos("a dog", []).shape == (0,)


def test_a_model_without_the_matching_head_is_refused(folder, tmp_path):
    """Its head would be random."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "captioner")
    weights = tmp_path / "captioner" / "model.safetensors"
    kept = {name: value for name, value in load_file(weights).items() if not name.startswith("itm_head")}
    save_file(kept, weights, {"format": "pt"})
    with pytest.raises(CrosslookError, match="no weights for image-text matching"):
        load_scorer(None, f"blip:{tmp_path / 'captioner'}")


def test_damaged_weights_are_one_line(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CrosslookError, match="cannot load the scorer blip:"):
        load_scorer(None, f"blip:{tmp_path / 'damaged'}")


def test_a_missing_model_is_one_line(tmp_path):
    with pytest.raises(CrosslookError, match="cannot load the scorer blip:") as caught:
        load_scorer(None, f"blip:{tmp_path / 'nothing'}", "cpu")
    assert len(str(caught.value).splitlines()) == 1
