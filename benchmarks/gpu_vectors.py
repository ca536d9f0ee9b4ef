"""Parts of benchmarks/gpu.py about vectors: exact search on the device, and ANN indexes made there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gpu_bench import Bench
from gpu_records import Record, median
from gpu_time import NoTime

from indexes.ann.building import build_ann
from indexes.ann.source import Rows, Source
from indexes.manifest import AnnEntry
from indexes.on_device.certificate import Special, certified
from indexes.on_device.torch_backend import TorchBackend
from retrieval.encoders.base import unit_norm

ROWS_AT_ONCE = 65_536
MANY_QUERIES = 256
RECALL, TEXTS = 0.95, 1000
TEXT_DISTANCE = 0.5  # from the image that it is made of
SLOWER = 1.7  # at most, a row of a larger index takes so many times as long
SHARE = 0.25  # of the processor's time, at most
CALLS = 20  # fewer where a call takes long


def exact(bench: Bench) -> list[Record]:
    """The exact nearest rows, proof included, of one query and of many."""
    sizes = bench.sizes
    embeddings = bench.embeddings
    matrix = TorchBackend(bench.device).matrix(sizes.dim, len(embeddings))
    started = time.perf_counter()
    for low in range(0, len(embeddings), ROWS_AT_ONCE):
        matrix.add(embeddings[low : low + ROWS_AT_ONCE])
    loaded = time.perf_counter() - started
    limit = 1000 * embeddings.nbytes / bandwidth(bench.device, embeddings.nbytes)
    queries = embeddings[:: len(embeddings) // MANY_QUERIES][:MANY_QUERIES].astype(np.float32)
    no_rows = Special(np.zeros(0, np.int64), np.zeros((0, sizes.dim), np.float32))

    proved: list[float] = []

    def search(count: int) -> list[float]:
        """Milliseconds."""

        def run(calls: int = CALLS) -> float:
            started = time.perf_counter()
            for _ in range(calls):
                result = certified(matrix, queries[:count], sizes.k, len(embeddings), None, no_rows)
                proved.append(float(result.is_certain.mean()))
            return 1000 * (time.perf_counter() - started) / calls

        run(1)
        calls = max(1, min(CALLS, round(1000 / run(1))))
        return bench.repeated(lambda: run(calls))

    what = f"exact search, {len(embeddings):,} x {sizes.dim} float16, k = {sizes.k}"
    one, many = search(1), search(MANY_QUERIES)
    note = f"{100 * sum(proved) / len(proved):.1f}% of the results are proved to be exact; loaded in {loaded:.1f} s; "
    note += "the bandwidth is that of copying within the device's memory"
    return [
        Record(f"{what}, one query", median(one), "ms", 4.5, False, limit, "bandwidth", 0.7, one, note),
        Record(f"{what}, {MANY_QUERIES} queries", median(many), "ms", 40, False, limit, "bandwidth", None, many),
    ]


def bandwidth(device: str, size: int) -> float:
    """Bytes that a copy within the device's memory reads and writes a second. size: of the copy, at most a GiB."""
    import torch

    source = torch.zeros(min(size, 2**30), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    wait: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None
    rates = []
    for _ in range(5):
        wait()
        started = time.perf_counter()
        for _ in range(CALLS):
            target.copy_(source)
        wait()
        rates.append(2 * len(source) * CALLS / (time.perf_counter() - started))
    return median(rates)


def ann(bench: Bench) -> list[Record]:
    """ANN indexes made by the device and by the processor: of few rows, and of more as far as time is left."""
    fewest, most = bench.sizes.cpu_ann_rows, bench.sizes.ann_rows
    sides = {"device": TorchBackend(bench.device), "processor": None}
    seconds: dict[str, dict[int, float]] = {side: {} for side in sides}
    quality: dict[int, str] = {}
    left_out = []
    for rows in sorted({fewest, most}):
        for side, backend in sides.items():
            if bench.left < SLOWER * rows / fewest * seconds[side].get(fewest, 0.0):
                left_out.append(f"no time for {rows:,} rows by the {side}")
                continue
            try:
                seconds[side][rows], entry = made_index(bench, rows, backend)
            except NoTime as error:  # what was measured counts
                left_out.append(f"{rows:,} rows by the {side}: {error}")
                break
            if side == "device":
                words = f"recall@10 {entry.recall:.3f}, nprobe {entry.nprobe}, {entry.milliseconds:.2f} ms a search"
                quality[rows] = words
    return ann_records(seconds, quality, most, left_out)


def ann_records(
    seconds: dict[str, dict[int, float]], quality: dict[int, str], most: int, left_out: Sequence[str]
) -> list[Record]:
    """seconds: by side and rows. quality: of the device's indexes, by rows. most: the rows that the target is for.
    Raises `NoTime` if the device made none."""
    if not seconds["device"]:
        raise NoTime("; ".join(left_out))
    made = max(seconds["device"])
    taken = seconds["device"][made]
    note = "; ".join([quality[made], *left_out])
    records = [Record(f"ANN index of {made:,} rows made", taken, "s", at_least=False, runs=[taken], note=note)]
    both = max(seconds["device"].keys() & seconds["processor"].keys(), default=None)
    if both is not None:
        by_device, by_processor = seconds["device"][both], seconds["processor"][both]
        what = f"share of the time with `--device cpu`, both of {both:,} rows"
        what += "" if both == most else f" (the target, {SHARE}, is for {most:,})"
        note = f"{by_device:.1f} s by the device, {by_processor:.1f} s by the processor"
        share, target = by_device / by_processor, SHARE if both == most else None
        records.append(Record(what, share, "", target, False, runs=[share], note=note))
    return records


def made_index(bench: Bench, rows: int, backend: TorchBackend | None) -> tuple[float, AnnEntry]:
    """Seconds that it takes to make an index over the first rows, tuning and writing included; and what it is.
    backend: None for the processor."""
    embeddings, path = bench.embeddings[:rows], bench.folder / "index.faiss"
    rng = np.random.default_rng(1)
    near = embeddings[rng.choice(rows, size=TEXTS, replace=False)].astype(np.float32)
    texts = unit_norm(near + rng.normal(scale=TEXT_DISTANCE / np.sqrt(near.shape[1]), size=near.shape))
    source = Source([Rows(np.arange(1, rows + 1), embeddings)], lambda ids: embeddings[ids - 1], texts)
    started = time.perf_counter()
    entry = build_ann(source, RECALL, path, backend)
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds, entry
