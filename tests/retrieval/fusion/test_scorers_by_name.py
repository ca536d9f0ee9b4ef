"""Which scorer a name means."""

from __future__ import annotations

import sys

import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.runtime import open_session
from retrieval.fusion import BySimilarity, FusionScorer, has_scorer, load_scorer, own_scorer
from retrieval.fusion.scorer import SCORER
from tests.support import FakeEncoder


def test_what_has_a_scorer_is_known_without_loading_it(tmp_path):
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / SCORER).touch()
    names = ["lite", "lite-untrained", "ViT-B-32:openai", str(tmp_path / "trained"), str(tmp_path)]
    assert [has_scorer(name) for name in names] == [True, False, False, True, False]


def test_the_embedded_model_has_its_own_and_its_towers_have_none():
    assert isinstance(own_scorer(load_encoder("lite")), FusionScorer)
    assert isinstance(load_scorer(load_encoder("lite")), FusionScorer)
    assert own_scorer(load_encoder("lite-untrained")) is None
    assert isinstance(load_scorer(FakeEncoder()), BySimilarity)


def test_an_encoder_keeps_the_session_of_its_scorer(monkeypatch):
    files = []

    def open_and_note(path, *arguments, **options):
        files.append(path.name)
        return open_session(path, *arguments, **options)

    monkeypatch.setattr("retrieval.fusion.scorer.open_session", open_and_note)
    encoder = load_encoder("lite")
    for _ in range(2):
        load_scorer(encoder).load()
    assert own_scorer(encoder) is load_scorer(encoder) and files == [SCORER]


def test_an_unknown_name_is_refused():
    with pytest.raises(CrosslookError, match="no scorer named blop"):
        load_scorer(FakeEncoder(), "blop")


def test_blip_without_transformers_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CrosslookError, match=r"crosslook\[cpu,build\]"):
        load_scorer(FakeEncoder(), "blip:some/model")


def test_a_scorer_that_an_older_version_wrote_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"calibration": {"a": 1, "b": 2, "c": 3}}')
    with pytest.raises(CrosslookError, match="written by an older version: train it again"):
        FusionScorer(tmp_path)
