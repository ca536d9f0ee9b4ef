"""What the encoders say where torch is not installed."""

from __future__ import annotations

import sys

import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder


def test_an_open_clip_model_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(CrosslookError, match=r"crosslook\[torch\]"):
        load_encoder("ViT-B-32:openai")
