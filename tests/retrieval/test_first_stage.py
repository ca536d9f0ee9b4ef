"""The first stage with a GPU: when it is taken, that results stay the same, and what happens where it fails."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.on_device import choosing, gpus
from indexes.on_device.base import DeviceError
from indexes.on_device.torch_backend import TorchBackend
from indexes.writer import CollectionWriter
from retrieval import first_stage
from retrieval.engine import Engine
from tests.batches import BINDING, make_batch
from tests.indexes.on_device.numpy_matrix import NumpyBackend, NumpyMatrix
from tests.retrieval.made_up_scorers import LastFirst, ManyPairs
from tests.support import FakeEncoder

TEXTS = [f"text {number}" for number in range(20)]


@pytest.fixture
def gpu(monkeypatch) -> NumpyBackend:
    """The GPU of this machine."""
    backend = NumpyBackend()
    monkeypatch.setattr(choosing, "find_backend", lambda device: backend)
    monkeypatch.setattr(choosing, "check", lambda backend: None)
    return backend


def opened(path, device: str = "cuda", scorer=None) -> Engine:
    return Engine(Collection.open(path), FakeEncoder(), scorer, device=device)


def hits_of(engine: Engine, **options) -> list[list[tuple[int, float]]]:
    return [[(hit.id, hit.similarity) for hit in results] for results in engine.search_many(TEXTS, 7, **options)]


@pytest.mark.parametrize("options", [{}, {"in_folder": "/photos"}, {"in_folder": "/nowhere"}])
@pytest.mark.parametrize("scorer", [None, LastFirst()])
def test_results_are_those_of_the_processor(collection, gpu, options, scorer):
    with opened(collection, "cpu", scorer) as by_processor, opened(collection, "cuda", scorer) as by_gpu:
        assert hits_of(by_gpu, **options) == hits_of(by_processor, **options)
        assert [by_gpu.search(text, 7, **options).hits for text in TEXTS] == [
            by_processor.search(text, 7, **options).hits for text in TEXTS
        ]
        assert by_gpu.device_fault is None and by_processor.device_fault is None
    assert gpu.added == [10, 10, 10] and gpu.calls


def test_a_batch_is_one_search(collection, gpu):
    with opened(collection) as engine:
        engine.search_many(TEXTS, 3)
    assert gpu.calls == [(20, 31)]


def test_a_newer_commit_adds_its_rows(collection, gpu):
    engine = opened(collection)
    before = hits_of(engine)
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.next_id, 5), dead=[1, 2, 3])
    newer = engine.refreshed()
    assert hits_of(engine) == before
    engine.close()
    with opened(collection, "cpu") as by_processor:
        assert hits_of(newer) == hits_of(by_processor) != before
    assert gpu.added == [10, 10, 10, 5]
    newer.close()


def test_a_gpu_that_is_too_small_leaves_the_search_to_the_processor(collection, monkeypatch):
    monkeypatch.setattr(choosing, "check", lambda backend: None)
    monkeypatch.setattr(choosing, "find_backend", lambda device: NumpyBackend(most=20))
    with opened(collection, "cpu") as by_processor, opened(collection) as engine:
        assert hits_of(engine) == hits_of(by_processor)
        assert engine.device_fault == "30 rows do not fit"


def test_memory_that_ends_while_loading_leaves_the_search_to_the_processor(collection, monkeypatch):
    monkeypatch.setattr(choosing, "check", lambda backend: None)
    monkeypatch.setattr(choosing, "find_backend", lambda device: NumpyBackend(most=35))
    monkeypatch.setattr(NumpyMatrix, "__len__", lambda matrix: 30)
    with opened(collection, "cpu") as by_processor, opened(collection) as engine:
        assert hits_of(engine) == hits_of(by_processor)
        assert engine.device_fault == "no memory is left"


def test_a_gpu_that_fails_while_searching_leaves_that_search_and_later_ones_to_the_processor(
    collection, gpu, monkeypatch
):
    engine = opened(collection)
    expected = hits_of(engine)

    def fail(*arguments):
        raise DeviceError("it fell off the bus")

    monkeypatch.setattr(NumpyMatrix, "shortlists", fail)
    assert hits_of(engine) == expected and engine.device_fault == "it fell off the bus"
    monkeypatch.undo()
    calls = len(gpu.calls)
    assert hits_of(engine) == expected and len(gpu.calls) == calls


def test_cuda_without_a_gpu_and_other_names_are_refused(collection, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(gpus, "GPUS", (tmp_path / "none",))
    with pytest.raises(CrosslookError, match="finds a CUDA device: use --device cpu"):
        opened(collection, "cuda")
    with pytest.raises(CrosslookError, match="tpu is not auto, cpu or cuda"):
        opened(collection, "tpu")


def test_auto_takes_a_gpu_once_queries_that_are_asked_together_make_it_pay(collection, gpu, monkeypatch):
    monkeypatch.setattr(first_stage, "PAYING", 3 * 20 * 30)
    with opened(collection, "auto") as engine, opened(collection, "cpu") as by_processor:
        for text in TEXTS * 4:
            engine.search(text)
        for _ in range(2):
            assert hits_of(engine) == hits_of(by_processor)
        assert not gpu.added
        assert hits_of(engine) == hits_of(by_processor)
        assert gpu.added == [10, 10, 10]


def test_auto_without_a_gpu_stays_with_the_processor(collection, monkeypatch, tmp_path):
    monkeypatch.setattr(first_stage, "PAYING", 1)
    monkeypatch.setattr(gpus, "GPUS", (tmp_path / "none",))
    with opened(collection, "auto") as engine:
        hits_of(engine)
        assert engine.device_fault is None


def test_many_threads_load_it_once(collection, gpu):
    with opened(collection) as engine, opened(collection, "cpu") as by_processor:
        expected, barrier = hits_of(by_processor), threading.Barrier(6)

        def ask() -> list[list[tuple[int, float]]]:
            barrier.wait()
            return hits_of(engine)

        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(ask) for _ in range(6)]
            assert all(future.result() == expected for future in futures)
    assert gpu.added == [10, 10, 10]


def test_closing_frees_the_memory(collection, gpu):
    for _ in range(2):
        with opened(collection) as engine:
            hits_of(engine)
    assert gpu.added == [10, 10, 10] * 2


def test_search_time_is_divided_evenly(collection):
    with opened(collection, "cpu") as engine:
        times = [results.milliseconds for results in engine.search_many(TEXTS)]
    assert len({time["search"] for time in times}) == len({time["encode"] for time in times}) == 1
    assert np.isfinite(times[0]["search"])


@pytest.mark.torch
def test_results_by_torch_are_those_of_the_processor(collection, monkeypatch):
    monkeypatch.setattr(choosing, "find_backend", lambda device: TorchBackend("cpu"))
    with opened(collection, "cpu") as by_processor, opened(collection) as by_torch:
        for options in ({}, {"in_folder": "/photos"}, {"in_folder": "/nowhere"}):
            assert hits_of(by_torch, **options) == hits_of(by_processor, **options)
        assert by_torch.device_fault is None


def test_a_scorer_that_the_processor_took_over_is_a_fault_of_the_device(collection):
    scorer = ManyPairs()
    with opened(collection, "cpu", scorer) as engine:
        assert engine.device_fault is None
        scorer.fault = "the GPU has too little free memory to score a pair"
        assert engine.device_fault == scorer.fault


@pytest.mark.parametrize(("device", "loads"), [("auto", False), ("cuda", True)])
def test_after_an_index_was_made_auto_goes_back_to_it(collection, gpu, monkeypatch, device, loads):
    monkeypatch.setattr(first_stage, "PAYING", 1)
    engine = opened(collection, device)
    hits_of(engine)
    assert gpu.added == [10, 10, 10]
    with CollectionWriter(collection, BINDING) as writer:
        writer.commit(make_batch(writer.next_id, 5))
    monkeypatch.setattr(Collection, "ann", object())
    newer = engine.refreshed()
    assert gpu.added == ([10, 10, 10, 5] if loads else [10, 10, 10])
    engine.close()
    newer.close()
