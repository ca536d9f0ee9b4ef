"""BLIP's matching against transformers' own forward pass, with a tiny model of random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.captions import read_captions
from retrieval.evaluation.evaluate import evaluate
from retrieval.fusion import load_scorer
from retrieval.images import Photo, decode
from tests.retrieval.made_up_scorers import MadeUpCandidates, encoded
from tests.support import FakeEncoder, write_photos

pytestmark = pytest.mark.torch


def photos(count):
    rng = np.random.default_rng(0)
    return [
        Photo(rng.integers(0, 256, (20 + 3 * index, 40, 3), dtype=np.uint8), 40, 20, None) for index in range(count)
    ]


@pytest.mark.parametrize("text", ["a dog on the beach", "a cat", "the dog " * 20])
def test_it_scores_as_transformers_does(tiny_blip, text):
    import torch
    from transformers import BlipForImageTextRetrieval, BlipProcessor

    scorer = load_scorer(FakeEncoder(), f"blip:{tiny_blip}", "cpu")
    gallery = photos(11)  # more than are scored at once
    candidates = MadeUpCandidates(photos=gallery)
    logits = scorer.score(encoded(text), candidates)
    model = BlipForImageTextRetrieval.from_pretrained(tiny_blip).eval()
    processor = BlipProcessor.from_pretrained(tiny_blip)
    assert not scorer.calibrated and candidates.side == 32 and logits.std() > 1e-3
    for photo, logit in zip(gallery, logits, strict=True):
        inputs = processor(images=photo.pixels, text=text, return_tensors="pt", truncation=True, max_length=12)
        with torch.no_grad():
            matching = model(**inputs, use_itm_head=True).itm_score[0, 1]
            contrast = model(**inputs, use_itm_head=False).itm_score[0, 0]
        assert logit == pytest.approx(float(matching + contrast), abs=1e-4)


def test_products_in_16_bits_are_near_enough(tiny_blip):
    from transformers import BlipForImageTextRetrieval, BlipProcessor

    from retrieval.fusion.blip import BlipScorer

    model = BlipForImageTextRetrieval.from_pretrained(tiny_blip)
    candidates, processor = MadeUpCandidates(photos=photos(11)), BlipProcessor.from_pretrained(tiny_blip)
    full, half = (
        BlipScorer(model, processor, "cpu", half=half).score(encoded("a dog on the beach"), candidates)
        for half in (False, True)
    )
    assert half.dtype == np.float32 and 0 < np.abs(half - full).max() < 0.01


def test_photos_that_are_gone_have_no_logit_and_change_no_other(tiny_blip):
    scorer = load_scorer(FakeEncoder(), f"blip:{tiny_blip}", "cpu")
    gallery = photos(11)
    expected = scorer.score(encoded("a dog"), MadeUpCandidates(photos=gallery))
    gone = [None if index in (0, 4, 10) else photo for index, photo in enumerate(gallery)]
    logits = scorer.score(encoded("a dog"), MadeUpCandidates(photos=gone))
    assert np.flatnonzero(np.isnan(logits)).tolist() == [0, 4, 10]
    np.testing.assert_allclose(logits[~np.isnan(logits)], np.delete(expected, [0, 4, 10]), atol=1e-4)


def test_it_is_evaluated_in_both_directions(tiny_blip, tmp_path):
    """A pair has the same logit in both directions."""
    paths = write_photos(tmp_path / "photos", 5)
    texts = ["a dog", "a cat on the beach", "the beach", "a", "dog dog"]
    lines = [json.dumps({"image": path.name, "captions": [text]}) for path, text in zip(paths, texts, strict=True)]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    scorer = load_scorer(FakeEncoder(), f"blip:{tiny_blip}", "cpu")
    captions = read_captions(tmp_path / "captions.jsonl", images_dir=tmp_path / "photos")
    evaluation = evaluate(captions, FakeEncoder(), tmp_path / "w", scorer=scorer)
    candidates = MadeUpCandidates(photos=[decode(path.read_bytes(), 32) for path in paths])
    logits = np.stack([scorer.score(encoded(text), candidates) for text in texts])
    np.testing.assert_array_equal(evaluation.text_to_image.first, logits.argmax(axis=1))
    np.testing.assert_array_equal(evaluation.image_to_text.first, logits.argmax(axis=0))


def test_a_model_without_the_matching_head_is_refused(tiny_blip, tmp_path):
    """transformers would give it a head of random weights."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_blip, tmp_path / "captioner")
    weights = tmp_path / "captioner" / "model.safetensors"
    kept = {name: value for name, value in load_file(weights).items() if not name.startswith("itm_head")}
    save_file(kept, weights, {"format": "pt"})
    with pytest.raises(CrosslookError, match="no weights for image-text matching"):
        load_scorer(FakeEncoder(), f"blip:{tmp_path / 'captioner'}")


def test_damaged_weights_are_one_line(tiny_blip, tmp_path):
    import shutil

    shutil.copytree(tiny_blip, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CrosslookError, match="cannot load the scorer blip:"):
        load_scorer(FakeEncoder(), f"blip:{tmp_path / 'damaged'}")


def test_a_missing_model_is_one_line(tmp_path):
    with pytest.raises(CrosslookError, match="cannot load the scorer blip:") as caught:
        load_scorer(FakeEncoder(), f"blip:{tmp_path / 'nothing'}", "cpu")
    assert len(str(caught.value).splitlines()) == 1
