"""What do rows cost? `python benchmarks/growth.py FOLDER PHOTOS [--rows 10000 100000 1000000 10000000]` (extra `cpu`).

PHOTOS: a few hundred photos, of which made-up embeddings are interpolated. Ten million rows take 10 GB of disk.

Makes a collection of made-up rows for each size and measures, each step in a new process: the time and memory of making
the ANN index; its recall for texts that it was not tuned with; the time of a search for the 100 nearest images of one
text, and of a cold query; resident memory after the searches, mapped pages included; and the time of adding one row in
a hundred, to the collection and to the index. Writes FOLDER/growth.json and FOLDER/growth.svg, and prints the
former."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import made_up
import numpy as np
from numpy.typing import NDArray
from search_speed import TEXT, machine, run, search

from cli.show.plots import bar_plot
from indexes.collection import Collection
from indexes.writer import CollectionWriter
from retrieval.encoders import load_encoder
from retrieval.indexing.ann_upkeep import update_ann
from retrieval.sample_texts import sample_texts

NEAREST, TEXTS, COLD_RUNS = 100, 300, 5
SIZES = [10_000, 100_000, 1_000_000, 10_000_000]
MIB = 2**20
LATENCIES = {"p50_ms": "p50, ms", "p99_ms": "p99, ms"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--step", choices=["make", "build", "search", "add"], help="One step, of one size; for itself.")
    options = parser.parse_args()
    if options.step:
        path = options.folder / f"growth-{options.rows[0]}"
        steps = {"make": lambda: make(path, options.photos, options.rows[0]), "build": lambda: build(path)}
        steps |= {"search": lambda: searched(path), "add": lambda: add(path, options.photos)}
        print(json.dumps(steps[options.step]()))
        return
    options.folder.mkdir(exist_ok=True)
    sizes: dict[str, dict[str, object]] = {}
    for rows in options.rows:
        results: dict[str, object] = {}
        for step in ("make", "build", "search", "add"):
            command = [sys.executable, __file__, options.folder, options.photos, "--rows", str(rows), "--step", step]
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results |= json.loads(process.stdout.splitlines()[-1])
        sizes[str(rows)] = results
        print(rows, json.dumps(results), file=sys.stderr)
    result = {"machine": machine(), "sizes": sizes}
    (options.folder / "growth.json").write_text(json.dumps(result, indent=2))
    (options.folder / "growth.svg").write_text(plot(sizes))
    print(json.dumps(result, indent=2))


def make(path: Path, photos: Path, rows: int) -> dict[str, object]:
    """Make the collection again, since `add` lets it grow, without an index."""
    encoder, embeddings = load_encoder("lite", "cpu"), embeddings_of(path.parent, photos)
    shutil.rmtree(path, ignore_errors=True)
    started = time.perf_counter()
    made_up.make_collection(path, encoder, embeddings, rows)
    return {"make_s": round(time.perf_counter() - started, 1)}


def embeddings_of(folder: Path, photos: Path) -> NDArray[np.float32]:
    """Of the photos, float32 [n, dim]; encoded once and kept in the folder."""
    cached = folder / "photos.npy"
    if not cached.exists():
        np.save(cached, made_up.photo_embeddings(load_encoder("lite", "cpu"), photos))
    embeddings: NDArray[np.float32] = np.load(cached)
    return embeddings


def build(path: Path) -> dict[str, object]:
    """Make the index again."""
    with CollectionWriter(path, Collection.open(path).binding) as writer:
        if writer.manifest.ann is not None:
            writer.drop_ann()
        started = time.perf_counter()
        update_ann(writer, None, lambda step: None)
        seconds = time.perf_counter() - started
        entry = writer.manifest.ann
    return {
        "build_s": round(seconds, 1),
        "build_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "recall_at_10": None if entry is None else round(entry.recall, 4),
        "nprobe": None if entry is None else entry.nprobe,
        "shortlist": None if entry is None else entry.shortlist,
        "index_mib": None if entry is None else entry.bytes // MIB,
    }


def searched(path: Path) -> dict[str, object]:
    encoder, collection = load_encoder("lite", "cpu"), Collection.open(path)
    texts = encoder.encode_texts(sample_texts(TEXTS)).embeddings
    milliseconds = []
    for text in [*texts[:50], *texts]:
        started = time.perf_counter()
        collection.nearest(text[None], NEAREST)
        milliseconds.append(1000 * (time.perf_counter() - started))
    memory = resident()
    cold = []
    for _ in range(COLD_RUNS + 1):
        started = time.perf_counter()
        run([search(), "-i", path, TEXT], path, None)
        cold.append(time.perf_counter() - started)
    return {
        "p50_ms": round(float(np.percentile(milliseconds[50:], 50)), 2),
        "p99_ms": round(float(np.percentile(milliseconds[50:], 99)), 2),
        "cold_query_s": round(float(np.median(cold[1:])), 3),
        **memory,
    }


def resident() -> dict[str, object]:
    """Memory of this process, in MiB: anonymous, and mapped pages of files, which the system takes back at need."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    sizes = {line[0]: int(line[1]) // 1024 for line in lines if line and line[0].startswith("Rss")}
    return {"resident_own_mib": sizes["RssAnon:"], "resident_mapped_mib": sizes["RssFile:"]}


def add(path: Path, photos: Path) -> dict[str, object]:
    """Add one row in a hundred, and bring the index up to date."""
    encoder = load_encoder("lite", "cpu")
    embeddings = embeddings_of(path.parent, photos)
    rows = len(Collection.open(path)) // 100
    started = time.perf_counter()
    made_up.make_collection(path, encoder, embeddings, rows)
    written = time.perf_counter()
    with CollectionWriter(path, Collection.open(path).binding) as writer:
        update_ann(writer, None, lambda step: None)
    return {
        "add_1_percent_write_s": round(written - started, 2),
        "add_1_percent_index_s": round(time.perf_counter() - written, 2),
    }


def plot(sizes: dict[str, dict[str, object]]) -> str:
    groups = {f"{int(rows):,}": [float(str(results[name])) for name in LATENCIES] for rows, results in sizes.items()}
    return bar_plot(groups, list(LATENCIES.values()), "milliseconds a search for the 100 nearest images, by rows")


if __name__ == "__main__":
    main()
