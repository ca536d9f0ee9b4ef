"""How fast are photos indexed?

    python benchmarks/indexing_speed.py FOLDER PHOTOS [--count 300] [--runs 3] [--only peer|pipeline] [--model MODEL]

Needs the extra `build`. FOLDER is made by benchmarks/peer.py. PHOTOS holds some hundreds of photos.

- Against a peer, rclip: new processes index the same photos into a new collection and answer a query, by turns. (rclip
  indexes only together with a query.) Sides: `search` with rclip's architecture (ViT-B-32 at 256 pixels, random
  weights, exported for ONNX Runtime before), `search` with `lite`, and rclip.
- Against the limit: `index_folders`, and the encoder alone on batches in memory, by turns in one process.

Prints medians, ratios and the machine."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import peer
from search_speed import machine, run, search

from retrieval.encoders import Encoder, load_encoder
from retrieval.images import ENDINGS, decode
from retrieval.indexing.pipeline import index_folders


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=["peer", "pipeline"])
    parser.add_argument("--model", choices=["lite", peer.MODEL], help="Only this model.")
    options = parser.parse_args()
    folder = options.folder.absolute()
    photos = some_photos(folder / f"photos-{options.count}", options.photos, options.count)
    models = {} if options.model == "lite" else {peer.MODEL: str(vit(folder / "vit"))}
    if options.model != peer.MODEL:
        models["lite"] = "lite"
    results: dict[str, object] = {"machine": machine(), "photos": len(list(photos.iterdir()))}
    if options.only != "pipeline":
        results["peer"] = against_peer(folder, photos, models, options.runs)
    if options.only != "peer":
        encoders = {name: load_encoder(model, "cpu") for name, model in models.items()}
        results["pipeline"] = {
            name: against_encoder(encoder, photos, folder, options.runs) for name, encoder in encoders.items()
        }
    print(json.dumps(results, indent=2))


def some_photos(folder: Path, photos: Path, count: int) -> Path:
    """A folder with copies of the first `count` photos."""
    folder.mkdir(exist_ok=True)
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in ENDINGS)[:count]
    for number, path in enumerate(files):
        shutil.copy(path, folder / f"{number:06d}{path.suffix.lower()}")
    return folder


def vit(folder: Path) -> Path:
    """A model directory with rclip's architecture. Loads it once, so that it is exported."""
    if not (folder / "open_clip_config.json").exists():
        import open_clip
        import torch
        from safetensors.torch import save_file

        folder.mkdir(exist_ok=True)
        torch.manual_seed(peer.SEED)
        model = open_clip.create_model(peer.MODEL)
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        config = {"model_cfg": open_clip.get_model_config(peer.MODEL), "preprocess_cfg": model.visual.preprocess_cfg}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    load_encoder(str(folder), "cpu")
    return folder


def against_peer(folder: Path, photos: Path, models: dict[str, str], runs: int) -> dict[str, object]:
    """Images per second of every side, start included, and the ratios to rclip. models: by name."""
    count = len(list(photos.iterdir()))

    def ours(name: str) -> None:
        shutil.rmtree(folder / "index", ignore_errors=True)
        run([search(), "index", photos, "-i", folder / "index", "--model", name], photos, None)
        run([search(), "query", "a dog", "-i", folder / "index"], photos, None)

    def theirs() -> None:
        (folder / "data" / "db.sqlite3").unlink(missing_ok=True)
        run(peer.index(folder), photos, peer.environment(folder))

    sides: dict[str, Callable[[], None]] = {name: partial(ours, model) for name, model in models.items()}
    sides["rclip"] = theirs
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(runs + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if number:
                taken[name].append(time.perf_counter() - started)
    rates = {name: count / float(np.median(values)) for name, values in taken.items()}
    rounded: dict[str, object] = {f"{name}, images a second": round(rate, 2) for name, rate in rates.items()}
    return rounded | {f"{name} to rclip": round(rates[name] / rates["rclip"], 2) for name in list(sides)[:-1]}


def against_encoder(encoder: Encoder, photos: Path, folder: Path, runs: int) -> dict[str, float]:
    """Images per second of the encoder alone and of the pipeline, and their ratio."""
    prepared = [encoder.prepare(decode(path.read_bytes(), encoder.image_size)) for path in sorted(photos.iterdir())]
    size = encoder.batch_size
    taken: dict[str, list[float]] = {"encoder": [], "pipeline": []}
    for number in range(runs + 1):
        started = time.perf_counter()
        for low in range(0, len(prepared), size):
            encoder.encode_images(prepared[low : low + size])
        between = time.perf_counter()
        shutil.rmtree(folder / "index", ignore_errors=True)
        index_folders([photos], folder / "index", encoder)
        if number:
            taken["encoder"].append(between - started)
            taken["pipeline"].append(time.perf_counter() - between)
    rates = {name: len(prepared) / float(np.median(values)) for name, values in taken.items()}
    rounded = {f"{name}, images a second": round(rate, 2) for name, rate in rates.items()}
    return rounded | {"pipeline to encoder": round(rates["pipeline"] / rates["encoder"], 3)}


if __name__ == "__main__":
    main()
