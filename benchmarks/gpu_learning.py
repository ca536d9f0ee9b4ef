"""Parts of benchmarks/gpu.py about the scorer and about training."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import replace
from itertools import count as count_from
from pathlib import Path

import made_up
import numpy as np
from gpu_bench import RUNS, Bench
from gpu_photos import made_up_embeddings
from gpu_records import Record, median

from indexes.collection import Collection
from retrieval.encoders import load_encoder
from retrieval.evaluation.reranking import TEXTS_SCORED_AT_ONCE
from retrieval.fusion.base import EncodedQuery
from retrieval.fusion.candidates import CollectionCandidates
from retrieval.progress import Observer, Step
from retrieval.query import Query
from retrieval.sample_texts import sample_texts

CANDIDATES = 100  # of a text
IMAGES = 5000  # among which they are


def scorer(bench: Bench) -> list[Record]:
    """Pairs of a text and an image that are scored together, as an evaluation scores them: every call has other texts
    and other numbers of candidates, of images whose regions are on the device after the first calls."""
    import torch

    from retrieval.fusion.scorer_torch import DeviceScorer

    encoder = load_encoder("lite", bench.device)
    assert encoder.folder is not None
    path, images = bench.folder / "scored", min(IMAGES, bench.sizes.pairs)
    photos = made_up_embeddings("cpu", 200, encoder.dim).astype(np.float32)
    made_up.make_collection(path, encoder, photos, images)
    count = max(1, bench.sizes.pairs // CANDIDATES)
    rng = np.random.default_rng(0)
    fewest, most = min(CANDIDATES, images), min(2 * CANDIDATES, images)  # those of which it is a candidate, too
    sampled = sample_texts((1 + RUNS) * count)
    order, lengths = rng.permutation(len(sampled)), []
    with Collection.open(path) as collection:
        on_device = DeviceScorer(encoder.folder, torch.device(bench.device))

        def work(number: int) -> list[tuple[EncodedQuery, CollectionCandidates]]:
            """Of one run: texts that no other run has, up to `count`, and their candidates."""
            texts = [sampled[index] for index in order[number * count : (number + 1) * count]]
            features = encoder.encode_texts(texts)
            lengths.append(float(features.mask.sum(axis=1).mean()))
            pairs = []
            for row, text in enumerate(texts[: rng.integers(max(1, count // 2), count + 1)]):
                positions = rng.choice(images, size=rng.integers(fewest, most + 1), replace=False)
                similarities = rng.random(len(positions), dtype=np.float32)
                candidates = CollectionCandidates(collection, positions, similarities)
                pairs.append((EncodedQuery(Query.of(text), features.of(row)), candidates))
            return pairs

        def rate(number: int) -> float:
            queries, candidates = zip(*work(number), strict=True)
            started = time.perf_counter()
            for low in range(0, len(queries), TEXTS_SCORED_AT_ONCE):
                part = slice(low, low + TEXTS_SCORED_AT_ONCE)
                on_device.score_many(queries[part], candidates[part])
            return sum(map(len, candidates)) / (time.perf_counter() - started)

        rate(0)  # sends the regions
        numbers = count_from(1)
        runs = bench.repeated(lambda: rate(next(numbers)))
    note = f"some {count:,} texts of {np.mean(lengths):.1f} tokens, other ones in every run, {TEXTS_SCORED_AT_ONCE} at "
    note += f"once; {fewest} to {most} of {images:,} images each"
    return [Record("scorer, pairs scored together", median(runs), "pairs/s", 500_000, runs=runs, note=note)]


def unfreeze(bench: Bench) -> list[Record]:
    """`search train --unfreeze`: photos that both towers learn from, a second."""
    from retrieval.captions import read_captions
    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.training.finetune import unfreeze as train
    from retrieval.training.learning.settings import TrainSettings

    sizes = bench.sizes
    sets = [read_captions(_captions(bench), images_dir=bench.photos)]
    defaults = TrainSettings()
    settings = replace(defaults, towers=replace(defaults.towers, epochs=2, batch=sizes.training_batch))
    times: dict[str, list[float]] = defaultdict(list)

    def step(event: Step) -> None:
        if event.losses:
            times[event.what].append(time.perf_counter())

    encoder = load_openclip(str(bench.vit), "cpu")
    train(sets, encoder, bench.folder / "trained", settings, device=bench.device, observer=Observer(step=step))
    what = f"`--unfreeze`, {sizes.vit}, batches of {sizes.training_batch}, epoch"
    records = []
    for epoch, moments in enumerate(times.values(), start=1):
        note = f"the middle half of its {len(moments)} steps"
        note += "; on a GPU it decodes the photos, and later epochs read them decoded" if epoch == 1 else ""
        rate = steady_rate(moments) * sizes.training_batch
        records.append(Record(f"{what} {epoch}", rate, "images/s", 3000, runs=[rate], note=note))
    return records


def steady_rate(moments: list[float]) -> float:
    """Steps a second in the middle half of an epoch. At its beginning batches are ready, and the losses of its last
    steps are reported together."""
    low, high = len(moments) // 4, len(moments) - 1 - len(moments) // 4
    return (high - low) / (moments[high] - moments[low])


def _captions(bench: Bench) -> Path:
    """A captions file for some of the photos, those of one batch to choose by."""
    sizes = bench.sizes
    files = sorted(bench.photos.iterdir())[: sizes.training + sizes.training_batch]
    path = bench.folder / "captions.jsonl"
    with path.open("w") as stream:
        for number, (file, text) in enumerate(zip(files, sample_texts(len(files)), strict=True)):
            split = "dev" if number < sizes.training_batch else "train"
            stream.write(json.dumps({"image": file.name, "captions": [text], "split": split}) + "\n")
    return path
