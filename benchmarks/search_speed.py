"""How fast is a query? `python benchmarks/search_speed.py FOLDER PHOTOS [--rows 10000]` (extra `cpu`).

FOLDER: as benchmarks/peer.py makes it. PHOTOS: a few hundred photos, of which made-up embeddings are interpolated.

Cold: a fresh process of `search` over ROWS images, with 100 candidates re-ranked; in turn with one of rclip over as
many images, and one that imports torch and open_clip, which is the least that a query with torch costs. Warm:
`Engine.search` over the same collection, with the texts of `sample_texts` one at a time. Scorer: pairs of a text and an
image a second, without the rest. Prints medians, ratios and the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import made_up
import numpy as np
import peer

from retrieval.cores import usable_cores
from retrieval.encoders import load_encoder
from retrieval.engine import Engine
from retrieval.fusion import own_scorer
from retrieval.sample_texts import sample_texts

TEXT = "a dog on a beach"
COLD_RUNS, WARM_TEXTS, SCORED = 9, 300, 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--torch", type=Path, help="A Python with torch and open_clip.")
    parser.add_argument("--only", choices=["cold", "warm"])
    options = parser.parse_args()
    collection = collection_of(options.folder, options.photos, options.rows)
    results: dict[str, object] = {"machine": machine(), "rows": options.rows}
    if options.only != "cold":
        results["warm"] = warm(collection)
    if options.only != "warm":
        results["cold"] = cold(options.folder, collection, options.rows, options.torch)
    print(json.dumps(results, indent=2))


def collection_of(folder: Path, photos: Path, rows: int) -> Path:
    """The collection, made once, with an ANN index where there are enough rows."""
    path = folder / f"lite-{rows}"
    if not (path / "done").exists():
        shutil.rmtree(path, ignore_errors=True)
        encoder = load_encoder("lite", "cpu")
        made_up.make_collection(path / "c", encoder, made_up.photo_embeddings(encoder, photos), rows)
        subprocess.run([search(), "optimize", "-i", path / "c"], check=True)
        (path / "done").touch()
    return path / "c"


def search() -> Path:
    return Path(sys.executable).with_name("search")


def warm(collection: Path) -> dict[str, object]:
    engine = Engine.open(collection)
    texts = sample_texts(WARM_TEXTS)
    for text in texts[:20]:
        engine.search(text)
    milliseconds = [engine.search(text).milliseconds for text in texts]
    stages = {
        name: round(float(np.median([by_stage[name] for by_stage in milliseconds])), 2) for name in milliseconds[0]
    }
    total = [sum(by_stage.values()) for by_stage in milliseconds]
    features = engine.encoder.encode_texts(texts)
    regions = engine.collection.regions(np.arange(min(SCORED, len(engine.collection))))
    scorer = own_scorer(engine.encoder)
    assert scorer is not None
    rates = []
    for row in range(100):
        started = time.perf_counter()
        scorer.fusion(features.of(row), regions)
        rates.append(len(regions) / (time.perf_counter() - started))
    return {
        "p50_ms": round(float(np.percentile(total, 50)), 2),
        "p99_ms": round(float(np.percentile(total, 99)), 2),
        "stages_p50_ms": stages,
        "words_p50": float(np.median(features.mask.sum(axis=1))),
        "scorer_pairs_a_second_p50": round(float(np.median(rates))),
    }


def cold(folder: Path, collection: Path, rows: int, torch: Path | None) -> dict[str, object]:
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    peer.fill(folder, photos.absolute(), rows)
    commands: dict[str, Callable[[], None]] = {
        "search": lambda: run([search(), "-i", collection, TEXT], photos, None),
        "rclip": lambda: run(peer.query(folder.absolute(), TEXT), photos, peer.environment(folder.absolute())),
    }
    if torch is not None:
        commands["import torch, open_clip"] = lambda: run(
            [torch.absolute(), "-c", "import torch, open_clip"], photos, None
        )
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(COLD_RUNS + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            command()
            if number:  # the first fills the page cache
                seconds[name].append(time.perf_counter() - started)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    results: dict[str, object] = {f"{name}_s": round(value, 3) for name, value in medians.items()}
    return results | {f"ratio to {name}": round(medians["search"] / medians[name], 3) for name in list(commands)[1:]}


def run(command: Sequence[str | Path], where: Path, environment: dict[str, str] | None) -> None:
    process = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{process.stderr}")


def machine() -> dict[str, object]:
    try:
        model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model.partition(":")[2].strip() or model,
        "cores": usable_cores(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
