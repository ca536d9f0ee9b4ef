"""What the lines of an evaluation say of the second stage."""

from __future__ import annotations

import pytest

from cli.show.evaluation_text import evaluation_lines
from retrieval.captions import CaptionSet, read_captions
from retrieval.evaluation.evaluate import evaluate
from retrieval.evaluation.record import record
from tests.retrieval.made_up_scorers import TwoWayScorer
from tests.support import FakeEncoder


class OnGpu(TwoWayScorer):
    device = "cuda"


@pytest.fixture
def captions(samples, tmp_path) -> CaptionSet:
    (tmp_path / "captions.jsonl").write_text(
        '{"image": "chelsea.png", "captions": ["a cat"]}\n{"image": "coffee.png", "captions": ["a cup of coffee"]}\n'
    )
    return read_captions(tmp_path / "captions.jsonl", images_dir=samples)


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        (None, "ranked by similarity: no scorer"),
        (TwoWayScorer(), "2 candidates re-ranked"),
        (OnGpu(), "2 candidates re-ranked on cuda"),
    ],
)
def test_a_device_that_is_not_the_processor_is_named(captions, tmp_path, scorer, words):
    evaluation = evaluate(captions, FakeEncoder(), tmp_path / "w", scorer=scorer, candidates=2)
    lines = list(evaluation_lines(evaluation, record(evaluation)))
    assert any(line.endswith(f", {words}") for line in lines)
