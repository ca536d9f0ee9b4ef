"""The benchmark of a GPU runs from end to end on the processor, and says honestly what it did not measure."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.torch
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch) -> Any:
    """The module `benchmarks/gpu.py`, whose parts a test may replace."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu")
    monkeypatch.setattr(module, "PARTS", {})
    return module


@pytest.fixture
def measure(gpu, tmp_path, capsys):
    """Runs some parts, and returns the exit status, the JSON and the table."""

    def run(parts: dict[str, Any], *options: str) -> tuple[int, Any, str]:
        gpu.PARTS.update(parts)
        json_file = tmp_path / "measured.json"
        arguments = ["--device", "cpu", "--small", "--folder", str(tmp_path), "--json", str(json_file), *options]
        status = gpu.main(arguments)
        return status, json.loads(json_file.read_text()), capsys.readouterr().out

    return run


def test_every_part_runs_on_the_processor_at_small_sizes(tmp_path):
    measured = tmp_path / "measured.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--small", "--json", str(measured)]
    run = subprocess.run(
        [*command, "--folder", str(tmp_path), "--seconds", "900"],
        cwd=BENCHMARKS.parent,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    results = json.loads(measured.read_text())
    assert run.returncode == 0, run.stderr
    assert [part["status"] for part in results["parts"]] == ["done"] * 12
    for part in results["parts"]:
        for record in part["records"]:
            assert record["what"] in run.stdout
            assert record["value"] > 0 or "inversion" in record["what"]
    assert {"processor", "memory", "torch", "files in"} <= results["machine"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["measured.json"], "its files are removed"


def test_a_part_that_fails_is_named_and_the_others_go_on(gpu, measure):
    records = importlib.import_module("gpu_records")

    def failing(bench):
        raise ValueError("no such kernel\nat line 3")

    parts = {"one": failing, "two": lambda bench: [records.Record("speed", 12.0, "images/s")]}
    status, results, table = measure(parts)
    assert status == 1
    assert [(part["status"], part["reason"]) for part in results["parts"]] == [
        ("failed", "ValueError: no such kernel"),
        ("done", ""),
    ]
    assert "| one | | failed: ValueError: no such kernel |" in table and "| speed |  | **12** images/s |" in table


def test_the_shares_of_all_parts_fit_the_time_and_leave_a_margin(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu")
    assert list(module.SHARES) == list(module.PARTS)
    assert sum(module.SHARES.values()) <= module.SECONDS - 20 and module.SECONDS < 480


def test_a_part_has_its_share_of_the_time_and_is_ended_where_it_takes_longer(gpu, monkeypatch, tmp_path):
    bench_module = importlib.import_module("gpu_bench")
    no_time, lefts = importlib.import_module("gpu_time").NoTime, []

    def waiting() -> float:
        time.sleep(1.1)
        return 1.0

    with bench_module.Bench("cpu", bench_module.FULL, 100, tmp_path) as bench:
        with bench.part_of(3):
            lefts.append(bench.left)
            runs = bench.repeated(waiting)
        lefts.append(bench.left)
        with pytest.raises(no_time, match="ended after 0 s"), bench.part_of(0.2):
            time.sleep(20)
        with pytest.raises(no_time, match="no time"), bench.part_of(300):
            raise AssertionError
    assert 2.5 < lefts[0] <= 3 and lefts[1] > 80 and len(runs) == 1


@pytest.mark.parametrize("limit", ["reading", "encoding"])
@pytest.mark.parametrize(("count", "batch"), [(20_000, 544), (2000, 544), (20_000, 1024)])
def test_the_rate_of_indexing_is_that_of_its_slowest_step(gpu, monkeypatch, tmp_path, limit, count, batch):
    """A made-up run starts, reads and encodes side by side at rates that are known, and commits."""
    module, bench_module = importlib.import_module("gpu_indexing"), importlib.import_module("gpu_bench")
    rates = {"reading": 4000.0, "encoding": 40_000.0} if limit == "reading" else {"reading": 9000.0, "encoding": 4000.0}
    clock = [0.0]

    def index_folders(folders, collection, encoder):
        collection.mkdir()
        left, is_read, is_encoded = len(list(folders[0].iterdir())), 6.0, 0.0
        progress = SimpleNamespace(new=left, failed=0)
        while left:
            size = min(batch, left)
            left -= size
            is_read += size / rates["reading"]
            is_encoded = max(is_encoded, is_read) + size / rates["encoding"]
        clock[0] += is_encoded + 0.7  # the commit
        return progress

    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(count):
        (photos / f"{number:06d}.jpg").touch()
    monkeypatch.setattr(module, "index_folders", index_folders)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    with bench_module.Bench("cpu", bench_module.SMALL, 100, tmp_path) as bench:
        measured = module.indexing(bench, photos, SimpleNamespace(batch_size=batch))
    assert measured.reported == measured.steady and len(measured.steady) == 3
    assert measured.steady == pytest.approx([4000.0] * 3, rel=0.02)
    assert max(measured.entire) < 4000 and f"{measured.entire[0]:,.0f} images/s" in measured.note
    if count == 20_000:
        assert measured.steady == pytest.approx([4000.0] * 3, rel=0.01)


def test_a_longer_run_that_is_no_longer_gives_no_rate_but_its_own(gpu, monkeypatch, tmp_path):
    module, bench_module = importlib.import_module("gpu_indexing"), importlib.import_module("gpu_bench")
    seconds = [1.0, *[2.0, 1.0], *[2.0, 2.5], *[2.0, 1.0]]

    def index_folders(folders, collection, encoder):
        collection.mkdir()
        return SimpleNamespace(new=len(list(folders[0].iterdir())), failed=0)

    clock = itertools.accumulate(itertools.chain.from_iterable((0.0, taken) for taken in seconds))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(module, "index_folders", index_folders)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(8):
        (photos / f"{number}.jpg").touch()
    with bench_module.Bench("cpu", bench_module.SMALL, 100, tmp_path) as bench:
        measured = module.indexing(bench, photos, SimpleNamespace(batch_size=2))
    assert measured.reported == measured.entire == [4.0] * 3 and "noise" in measured.note


@pytest.mark.parametrize(
    ("processor", "share", "is_met", "target"),
    [
        ({1: 10.0}, 0.3, None, " (the target, 0.25, is for 10)"),
        ({1: 10.0, 10: 100.0}, 0.2, True, ""),
        ({}, None, None, ""),
    ],
)
def test_both_sides_of_an_ann_index_are_compared_at_a_size_that_is_named(gpu, processor, share, is_met, target):
    ann_records = importlib.import_module("gpu_vectors").ann_records
    seconds = {"device": {1: 3.0, 10: 20.0}, "processor": processor}
    made, *compared = ann_records(seconds, {1: "few", 10: "many"}, 10, ["no time for this"])
    assert (made.what, made.value, made.note) == ("ANN index of 10 rows made", 20.0, "many; no time for this")
    if share is None:
        assert not compared
        with pytest.raises(importlib.import_module("gpu_time").NoTime, match="no time for this"):
            ann_records({"device": {}, "processor": {}}, {}, 10, ["no time for this"])
    else:
        (record,) = compared
        rows = max(processor)
        assert record.what == f"share of the time with `--device cpu`, both of {rows} rows{target}"
        assert record.value == pytest.approx(share) and record.is_met is is_met


def test_a_figure_says_how_many_runs_it_is_of_and_where_the_files_are(gpu):
    records = importlib.import_module("gpu_records")
    single, three = (records.Record("speed", 2.0, "s", runs=runs) for runs in ([2.0], [1.0, 2.0, 3.0]))
    table = records.as_markdown([records.Outcome("one", "done", records=[single, three])], {})
    assert "**2** s (one run) |" in table and "**2** s (median of 1, 2, 3) |" in table
    assert "in memory" in records.machine("cpu", 2, Path("/dev/shm"))["files in"]
    assert "on a" in records.machine("cpu", 2, Path("/"))["files in"]


def test_a_part_without_time_is_left_out_and_named(measure):
    def part(bench):
        bench.need(1000)  # small sizes need a tenth

    status, results, table = measure({"long": part, "none": lambda bench: []}, "--seconds", "50")
    assert status == 0
    assert [part["status"] for part in results["parts"]] == ["left out", "done"]
    assert "| long | | left out: no time (" in table


def test_small_sizes_have_no_targets(gpu, measure):
    record_of = importlib.import_module("gpu_records").Record
    record = record_of("speed", 1.0, "images/s", 5000, limit=2.0, limit_name="the tower", least_ratio=0.8)
    _, results, table = measure({"one": lambda bench: [record]})
    (measured,) = results["parts"][0]["records"]
    assert (measured["met"], measured["ratio"]) == (None, 0.5)
    assert "| speed |  | **1** images/s | 2 images/s, the tower | 0.50 |  |" in table


def test_only_the_parts_that_are_named_run(measure):
    parts: dict[str, Any] = {name: lambda bench: [] for name in ("one", "two", "three")}
    _, results, _ = measure(parts, "--only", "three", "one")
    assert [part["part"] for part in results["parts"]] == ["three", "one"]


def test_without_a_cuda_device_it_says_so(gpu, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "torch finds no CUDA device: use --device cpu --small\n"


@pytest.mark.parametrize(
    ("value", "at_least", "ratio", "is_met"),
    [(90.0, True, 0.9, True), (70.0, True, 0.7, False), (40.0, True, 0.4, False), (200.0, False, 0.5, False)],
)
def test_a_record_compares_with_its_target_and_its_limit(gpu, value, at_least, ratio, is_met):
    record_of = importlib.import_module("gpu_records").Record
    record = record_of("speed", value, "ms", 50.0, at_least, 100.0, "the tower", 0.8)
    assert record.ratio == pytest.approx(ratio) and record.is_met is is_met


def test_an_inversion_is_how_far_a_ranking_is_from_its_own_order(gpu):
    import numpy as np

    inversion = importlib.import_module("gpu_images").inversion
    similarities = np.array([0.5, 0.9, 0.1, 0.4])
    assert inversion(similarities, np.array([1, 0, 3, 2])) == 0
    assert inversion(similarities, np.array([1, 3, 0, 2])) == pytest.approx(0.1)
    assert inversion(similarities, np.array([2, 3, 0, 1])) == pytest.approx(0.8)
