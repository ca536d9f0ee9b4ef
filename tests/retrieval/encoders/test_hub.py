"""Weights that are in the model hub's cache are loaded without asking the hub."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.guarding import run_guarded
from tests.tiny_clip import TINY_CLIP

pytestmark = pytest.mark.torch


@pytest.fixture
def online(monkeypatch):
    """The hub's client in online mode."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return constants


def test_what_is_cached_is_not_asked_for(online):
    from retrieval.privacy import from_cache_first

    modes = []
    assert from_cache_first(lambda: modes.append(online.HF_HUB_OFFLINE)) is None
    assert modes == [True] and online.HF_HUB_OFFLINE is False


def test_what_is_not_cached_is_asked_for(online):
    from retrieval.privacy import from_cache_first

    def load():
        if online.HF_HUB_OFFLINE:
            raise FileNotFoundError("not in the cache")
        return "weights"

    assert from_cache_first(load) == "weights" and online.HF_HUB_OFFLINE is False


def test_who_is_offline_stays_so(online):
    from retrieval.privacy import from_cache_first

    online.HF_HUB_OFFLINE = True
    attempts = []

    def load():
        attempts.append(online.HF_HUB_OFFLINE)
        raise FileNotFoundError("not in the cache")

    with pytest.raises(FileNotFoundError):
        from_cache_first(load)
    assert attempts == [True] and online.HF_HUB_OFFLINE is True


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_reason_to_ask(online, error):
    from retrieval.privacy import from_cache_first

    attempts = []

    def load():
        attempts.append(online.HF_HUB_OFFLINE)
        raise error

    with pytest.raises(error):
        from_cache_first(load)
    assert attempts == [True] and online.HF_HUB_OFFLINE is False


def test_threads_that_load_at_once_do_not_put_one_another_offline(online):
    from retrieval.privacy import from_cache_first

    started = threading.Barrier(4, timeout=20)

    def load_one(_):
        started.wait()

        def load():
            if online.HF_HUB_OFFLINE:
                raise FileNotFoundError
            return online.HF_HUB_OFFLINE

        return from_cache_first(load)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(load_one, range(4))) == [False] * 4


def test_a_cached_model_of_the_hub_loads_without_a_socket(tiny_clip, tmp_path):
    """Loaded by its name in online mode; the guard ends a process that opens a socket."""
    snapshot = tmp_path / "mine" / "hub" / "models--made-up--tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    shutil.copy(tiny_clip / "open_clip_model.safetensors", snapshot)
    (tmp_path / "mine" / "Tiny.json").write_text(json.dumps(TINY_CLIP))
    script = f"""
import retrieval
import open_clip
from open_clip import pretrained
open_clip.add_model_config({str(tmp_path / "mine" / "Tiny.json")!r})
pretrained._PRETRAINED["Tiny"] = {{"here": pretrained._pcfg(hf_hub="made-up/tiny/open_clip_model.safetensors")}}
from retrieval.encoders.openclip_loading import load_openclip
print(load_openclip("Tiny:here", "cpu").dim)
"""
    users_cache = tmp_path / "surroundings" / "XDG_CACHE_HOME" / "crosslook"  # remembers the checksum of the weights
    outcome = run_guarded(script, tmp_path, [tmp_path / "mine", users_cache], HF_HOME=str(tmp_path / "mine"))
    assert outcome.is_clean and outcome.output.strip() == "32", outcome


def test_a_tokeniser_that_two_threads_cannot_use_is_used_by_one(tiny_clip):
    """Tokenisers of the hub raise "Already borrowed" when two threads use them."""
    from retrieval.encoders.openclip_loading import load_openclip

    encoder = load_openclip(str(tiny_clip), "cpu")
    busy = threading.Lock()

    tokenizer_class: Any = type(encoder.tokenizer)

    class Exclusive(tokenizer_class):
        def __call__(self, texts, context_length=None):
            if not busy.acquire(blocking=False):
                raise RuntimeError("Already borrowed")
            try:
                threading.Event().wait(0.002)  # other threads call meanwhile
                return super().__call__(texts, context_length)
            finally:
                busy.release()

    expected = encoder.encode_texts(["a dog on a beach"]).embeddings
    encoder.tokenizer.__class__ = Exclusive
    with ThreadPoolExecutor(8) as threads:
        for features in threads.map(encoder.encode_texts, [["a dog on a beach"]] * 40):
            np.testing.assert_allclose(features.embeddings, expected, atol=1e-6)


def test_a_text_that_just_fits_is_not_cut(tiny_clip):
    """16 tokens, BOS and EOS among them, on torch and as exported."""
    from retrieval.encoders import load_encoder
    from retrieval.encoders.openclip_loading import load_openclip

    texts = ["dog " * count for count in (0, 1, 13, 14, 15, 16, 99)]
    expected = [False, False, False, False, True, True, True]
    for encoder in (load_openclip(str(tiny_clip), "cpu"), load_encoder(str(tiny_clip), "cpu")):
        features = encoder.encode_texts(texts)
        assert features.truncated.tolist() == expected, type(encoder)
        assert features.mask.sum(axis=1).tolist() == [2, 3, 15, 16, 16, 16, 16]


@pytest.fixture(params=["EOS is its padding", "EOS is not its padding"])
def of_hub(request, tiny_clip):
    """An encoder with a tokeniser like those of the hub, which adds special tokens itself."""
    from open_clip.tokenizer import HFTokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from retrieval.encoders.openclip_loading import load_openclip

    words = {"<pad>": 0, "</s>": 1, "dog": 2, "<unk>": 3}
    fast = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    pad = "</s>" if request.param == "EOS is its padding" else "<pad>"
    made = HFTokenizer.__new__(HFTokenizer)
    made.tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token=pad, eos_token="</s>", unk_token="<unk>")
    made.context_length, made.clean_fn, made.strip_sep_token, made.tokenizer_mode = 16, str, False, ""
    encoder = load_openclip(str(tiny_clip), "cpu")
    encoder.tokenizer = made
    return encoder


def test_a_text_that_just_fits_a_tokeniser_of_the_hub_is_not_cut(of_hub):
    texts = ["dog " * count for count in (1, 14, 15, 16, 99)]
    assert of_hub.token_ids(texts)[1].tolist() == [False, False, False, True, True]
