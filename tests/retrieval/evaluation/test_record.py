"""The record of an evaluation, and the comparison of two."""

from __future__ import annotations

import json

import numpy as np
import pytest

from indexes.errors import CrosslookError
from indexes.on_device import choosing
from retrieval.evaluation import record as figures
from retrieval.evaluation.evaluate import evaluate
from tests.indexes.on_device.numpy_matrix import NumpyBackend
from tests.retrieval.made_up_scorers import TwoWayScorer


def test_the_record_has_the_documented_form(captions, encoder, tmp_path):
    record = figures.record(evaluate(captions, encoder, tmp_path / "w", scorer=TwoWayScorer(), candidates=4))
    assert set(record) >= {
        "text_to_image", "image_to_text", "latency_ms", "ann_recall", "images", "captions", "fingerprint"
    }  # fmt: skip
    assert set(record["text_to_image"]) == {"base", "reranked", "gain", "ceiling"}
    assert set(record["text_to_image"]["base"]["R@1"]) == {"value", "low", "high"}
    assert 0 <= record["text_to_image"]["base"]["R@10"]["low"] <= record["text_to_image"]["base"]["R@10"]["high"] <= 1
    assert set(record["latency_ms"]) == {"encode", "search", "fetch", "score", "rows", "total"}
    assert set(record["latency_ms"]["total"]) == {"p50", "p95", "p99"}
    assert (record["images"], record["captions"], record["ann_recall"]) == (12, 24, None)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_the_device_that_scored_is_named_and_single_queries_are_those_of_their_own_scorer(captions, encoder, tmp_path):
    class OnGpu(TwoWayScorer):
        device = "cuda"

    class Counted(TwoWayScorer):
        queries = 0

        def score(self, query, candidates):
            self.queries += 1
            return super().score(query, candidates)

    on_gpu, single = OnGpu(), Counted()
    evaluation = evaluate(captions, encoder, tmp_path / "a", scorer=on_gpu, candidates=4, of_single=single)
    record = figures.record(evaluation)
    assert record["scorer_device"] == "cuda" and single.queries == len(evaluation.texts) + 1
    alike = figures.record(evaluate(captions, encoder, tmp_path / "b", scorer=TwoWayScorer(), candidates=4))
    assert alike["scorer_device"] == "cpu" and alike["queries"] == record["queries"]


def test_the_search_is_where_it_was_asked_for(captions, encoder, tmp_path, monkeypatch):
    backend = NumpyBackend()
    monkeypatch.setattr(choosing, "find_backend", lambda device: backend)
    monkeypatch.setattr(choosing, "check", lambda backend: None)
    on_device = figures.record(evaluate(captions, encoder, tmp_path / "a", device="cuda"))
    assert backend.calls and not evaluate(captions, encoder, tmp_path / "b", device="auto").milliseconds.keys() - set(
        on_device["latency_ms"]
    )
    assert on_device["queries"] == figures.record(evaluate(captions, encoder, tmp_path / "c"))["queries"]


def test_absent_parts_are_null(captions, encoder, tmp_path):
    record = figures.record(evaluate(captions, encoder, tmp_path / "w"))
    assert record["scorer_device"] is None
    assert record["text_to_image"]["reranked"] is None and record["text_to_image"]["gain"] is None


def test_recall_stands_beside_success_where_items_have_several_right_answers(captions, encoder, tmp_path):
    record = figures.record(evaluate(captions, encoder, tmp_path / "w"), ks=(1, 3))
    assert [name for name in record["text_to_image"]["base"] if "@" in name] == ["R@1", "R@3", "nDCG@10"]
    assert [name for name in record["image_to_text"]["base"] if "@" in name] == [
        *("R@1", "R@3", "recall@1", "recall@3", "nDCG@10")
    ]


def test_figures_are_means_over_queries(captions, encoder, tmp_path):
    evaluation = evaluate(captions, encoder, tmp_path / "w", scorer=TwoWayScorer(), candidates=4)
    record = figures.record(evaluation)["text_to_image"]
    ranks = evaluation.text_to_image.base.ranks
    assert evaluation.text_to_image.reranked is not None
    after = evaluation.text_to_image.reranked.ranks
    assert record["base"]["R@5"]["value"] == pytest.approx(np.mean(ranks <= 5))
    assert record["base"]["MRR"]["value"] == pytest.approx(np.mean(1 / ranks))
    assert record["base"]["median rank"]["value"] == np.median(ranks)
    assert record["reranked"]["mean rank"]["value"] == pytest.approx(after.mean())
    assert record["gain"]["R@5"]["value"] == pytest.approx(np.mean(after <= 5) - np.mean(ranks <= 5))
    assert record["ceiling"]["value"] == pytest.approx(np.mean(ranks <= 4))


# Comparing.


@pytest.fixture
def record_file(captions, encoder, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(figures.record(evaluate(captions, encoder, tmp_path / "w"))))
    return path


def test_a_record_does_not_differ_from_itself(record_file):
    for row in figures.compare(record_file, record_file):
        assert row.first == row.second and tuple(row.difference) == (0, 0, 0)
        assert not row.difference.excludes_zero


def test_a_better_system_is_told_from_noise(record_file, tmp_path):
    record = json.loads(record_file.read_text())
    record["queries"]["text_to_image"]["reranked"] = [[1] for _ in record["queries"]["text_to_image"]["base"]]
    (tmp_path / "b.json").write_text(json.dumps(record))
    rows = {(row.direction, row.measure.name): row for row in figures.compare(record_file, tmp_path / "b.json")}
    assert rows["text_to_image", "R@1"].second == 1
    assert rows["text_to_image", "R@1"].difference.excludes_zero
    assert rows["text_to_image", "mean rank"].difference.high < 0
    assert not rows["image_to_text", "R@1"].difference.excludes_zero


def test_records_of_different_sets_are_not_compared(record_file, tmp_path):
    other = json.loads(record_file.read_text()) | {"set": "another"}
    (tmp_path / "b.json").write_text(json.dumps(other))
    with pytest.raises(CrosslookError, match="different images or captions"):
        figures.compare(record_file, tmp_path / "b.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"queries": {"text_to_image": 1}}'])
def test_a_file_that_is_no_record_is_one_line(record_file, tmp_path, content):
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(CrosslookError, match=r"^[^\n]*search evaluate --json[^\n]*$"):
        figures.compare(record_file, tmp_path / "b.json")
