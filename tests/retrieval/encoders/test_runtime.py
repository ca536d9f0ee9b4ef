"""What is opened lazily is opened once, however many threads ask; searching and explaining share it."""

from __future__ import annotations

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders.lite import HEADS, TOWERS, LiteEncoder
from retrieval.encoders.runtime import import_onnxruntime, once, open_session
from retrieval.encoders.text_tower import TextTower
from retrieval.fusion import load_scorer, own_scorer
from retrieval.fusion.scorer import FusionScorer

THREADS = 8
MADE_UP = """
import os
calls = [os.environ["ORT_DISABLE_TELEMETRY"]]
def disable_telemetry_events():
    calls.append("events off")
def set_default_logger_severity(severity):
    calls.append(severity)
"""


class Counting:
    """Computes a value while other threads ask for it."""

    def __init__(self, fails=0):
        self.computed = 0
        self.fails = fails
        self.others = Event()

    @once
    def value(self):
        """What it is."""
        self.computed += 1
        self.others.wait(0.05)
        if self.computed <= self.fails:
            raise CrosslookError("not yet")
        return object()

    @once
    def twice(self):
        return [self.value, self.value]


def ask_at_once(ask, count=THREADS):
    """The results of `count` threads that call `ask` at the same moment."""
    barrier = Barrier(count)

    def work(_):
        barrier.wait()
        return ask()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def test_threads_that_ask_at_once_get_the_same_computed_once():
    counting = Counting()
    values = ask_at_once(lambda: counting.value)
    assert len(set(map(id, values))) == 1 and counting.computed == 1


def test_objects_have_values_of_their_own():
    first, second = Counting(), Counting()
    assert first.value is not second.value and first.value is first.value


def test_one_may_need_another():
    counting = Counting()
    first, second = counting.twice
    assert first is second is counting.value


def test_what_raises_is_tried_again():
    counting = Counting(fails=2)
    for _ in range(2):
        with pytest.raises(CrosslookError, match="not yet"):
            _ = counting.value
    assert counting.value is counting.value and counting.computed == 3


def test_it_is_documented_and_can_be_replaced():
    assert Counting.value.__doc__ == "What it is."
    counting = Counting()
    counting.value = 3
    assert counting.value == 3 and counting.computed == 0


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Replaces ONNX Runtime by a made-up module that is not imported yet."""

    def put(content):
        (tmp_path / "onnxruntime.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(sys.modules, "onnxruntime", None)  # so that the real module comes back
        del sys.modules["onnxruntime"]

    return put


@pytest.mark.parametrize("is_of_host", [False, True])
def test_reports_are_off_before_the_import_and_the_log_of_a_host_program_is_its_own(made_up, monkeypatch, is_of_host):
    made_up(MADE_UP)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    if is_of_host:
        __import__("onnxruntime")
    assert import_onnxruntime().calls == (["0", "events off"] if is_of_host else ["1", "events off", 3])


def test_an_onnx_runtime_without_reports_will_do(made_up, tmp_path):
    made_up("def set_default_logger_severity(severity): pass")
    assert import_onnxruntime().__file__ == str(tmp_path / "onnxruntime.py")


def opened(monkeypatch, *modules):
    """Names of the files that the modules open as sessions, from now on."""
    files = []

    def open_and_note(path, *arguments, **options):
        files.append(path.name)
        return open_session(path, *arguments, **options)

    for module in modules:
        monkeypatch.setattr(f"retrieval.{module}.open_session", open_and_note)
    return files


def test_a_cold_encoder_used_by_threads_opens_each_file_once_and_gives_the_same(monkeypatch, lite):
    files = opened(monkeypatch, "encoders.lite", "encoders.text_tower")
    texts = [f"a photo of number {row}" for row in range(THREADS)]
    cold = LiteEncoder(heads=HEADS, device="cpu")
    expected = LiteEncoder(heads=HEADS, device="cpu").encode_texts(["a dog on a beach"])
    files.clear()
    for features in ask_at_once(lambda: cold.encode_texts(["a dog on a beach"])):
        np.testing.assert_array_equal(features.embeddings, expected.embeddings)
    assert sorted(files) == ["text.onnx", "text_head.onnx"]
    assert cold.encode_texts(texts).mask.shape[0] == THREADS


def test_threads_cut_long_texts_alike():
    """The tokeniser's limit is set once, before any text is read."""
    tower = TextTower(TOWERS / "text.onnx", TOWERS / "tokenizer.json", 16)
    for features in ask_at_once(lambda: tower.encode(["dog " * 99, "a dog"])):
        assert features.mask.sum(axis=1).tolist() == [16, 4] and features.truncated.tolist() == [True, False]


def test_explaining_again_opens_nothing(monkeypatch, tmp_path):
    from retrieval.explain import explain
    from tests.support import write_photo

    files = opened(monkeypatch, "fusion.scorer", "encoders.lite", "encoders.text_tower")
    write_photo(tmp_path / "a.png")
    encoder = LiteEncoder(heads=HEADS, device="cpu")
    first = explain(encoder, load_scorer(encoder), "a dog", tmp_path / "a.png")
    count = len(files)
    again = explain(encoder, load_scorer(encoder), "a dog", tmp_path / "a.png")
    assert "explainer.onnx" in files and len(files) == count
    np.testing.assert_array_equal(first.heat, again.heat)


def test_an_encoder_has_one_scorer_whoever_asks():
    encoder = LiteEncoder(heads=HEADS, device="cpu")
    scorers = ask_at_once(lambda: own_scorer(encoder))
    assert {*scorers, load_scorer(encoder)} == {scorers[0]} and isinstance(scorers[0], FusionScorer)
    assert own_scorer(LiteEncoder(heads=HEADS, device="cpu")) is not scorers[0]
    assert own_scorer(LiteEncoder(device="cpu")) is None


def test_a_scorer_goes_with_its_encoder():
    encoder = LiteEncoder(heads=HEADS, device="cpu")
    gone = weakref.ref(own_scorer(encoder))
    del encoder
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"calibration": 3}', '{"calibration": {"to_image": {}}}'])
def test_a_damaged_scorer_is_one_clear_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CrosslookError, match=r"^[^\n]*(config\.json is damaged|older version): train [^\n]*again$"):
        FusionScorer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_tokenizer_is_one_clear_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CrosslookError, match=r"^cannot read [^\n]*tokenizer.json[^\n]*reinstall crosslook\)$"):
        TextTower(TOWERS / "text.onnx", tmp_path / "tokenizer.json", 16).token_ids("a dog")


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_damaged_class_embeddings_are_one_clear_line(tmp_path, keep):
    for path in TOWERS.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").write_bytes((TOWERS / "model.safetensors").read_bytes()[:keep])
    with pytest.raises(CrosslookError, match=r"^cannot read [^\n]*model.safetensors[^\n]*reinstall crosslook\)$"):
        _ = LiteEncoder(towers=tmp_path).class_embeddings


@pytest.mark.parametrize(("ships", "remedy"), [(True, "reinstall crosslook"), (False, "train the model again")])
def test_a_damaged_file_of_a_model_directory_is_mended_by_whoever_made_it(tmp_path, monkeypatch, ships, remedy):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "scorer.onnx").write_bytes(b"no graph")
    if ships:
        monkeypatch.setattr("retrieval.encoders.runtime.SHIPPED", tmp_path)
    with pytest.raises(CrosslookError, match=rf"^cannot load [^\n]*scorer.onnx[^\n]*\({remedy}\)$"):
        open_session(tmp_path / "model" / "scorer.onnx")
