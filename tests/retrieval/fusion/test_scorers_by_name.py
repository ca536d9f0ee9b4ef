"""Which scorer a name means."""

from __future__ import annotations

import sys

import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.fusion import FusionScorer, load_scorer, own_scorer
from tests.support import FakeEncoder


def test_the_embedded_model_has_its_own_and_its_towers_have_none():
    assert isinstance(own_scorer(load_encoder("lite")), FusionScorer)
    assert isinstance(load_scorer(load_encoder("lite")), FusionScorer)
    assert own_scorer(load_encoder("lite-untrained")) is None
    assert load_scorer(FakeEncoder()) is None


def test_an_unknown_name_is_refused():
    with pytest.raises(CrosslookError, match="no scorer named blop"):
        load_scorer(FakeEncoder(), "blop")


def test_blip_without_transformers_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CrosslookError, match=r"crosslook\[cpu,build\]"):
        load_scorer(FakeEncoder(), "blip:some/model")
