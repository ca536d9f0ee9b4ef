"""Parts of benchmarks/gpu.py that are about images: from files to a committed index, and encoding by itself."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gpu_photos
import numpy as np
from gpu_bench import Bench
from gpu_indexing import Rates, indexing
from gpu_records import Record, median

from retrieval.images import Photo, decode

CALLERS = 2  # of `encode_images` at once


def index(bench: Bench) -> list[Record]:
    """`search index` of photos of 640x480."""
    limits = {"decoding alone": bench.decoding(bench.photos), "the tower alone": bench.tower(bench.sizes.vit)}
    name = min(limits, key=lambda name: limits[name])
    rates = indexing(bench, bench.photos, bench.encoder)
    what = f"`search index`, {bench.sizes.vit}, {bench.sizes.photos:,} JPEGs of {_size(bench.sizes.photo)}"
    return [
        _indexed(what, rates, 5000, limits[name], name, 0.8, limits),
        Record(f"{what}, an entire run", median(rates.entire), "images/s", runs=rates.entire),
        *(Record(f"{alone}, the same photos", rate, "images/s") for alone, rate in limits.items()),
    ]


def index_large(bench: Bench) -> list[Record]:
    """`search index` of photos as cameras take them."""
    folder = bench.large_photos
    limit = bench.decoding(folder)
    rates = indexing(bench, folder, bench.encoder)
    what = f"the same, {bench.sizes.large:,} JPEGs of {_size(bench.sizes.large_photo)}"
    shutil.rmtree(folder)
    return [_indexed(what, rates, 1500, limit, "decoding alone")]


def index_mixed(bench: Bench) -> list[Record]:
    """`search index` of photos of many sizes, few of which are resized together."""
    folder = bench.mixed_photos
    limit = bench.decoding(folder)
    rates = indexing(bench, folder, bench.encoder)
    sizes = min(gpu_photos.SIZES, bench.sizes.mixed)
    what = f"the same, {bench.sizes.mixed:,} JPEGs of {sizes} sizes up to {_size(bench.sizes.photo)}"
    return [_indexed(what, rates, None, limit, "decoding alone")]


def index_siglip(bench: Bench) -> list[Record]:
    """`search index` with a larger tower."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from retrieval.encoders.openclip import OpenClipEncoder

    name = bench.sizes.siglip
    limit, decoding = bench.tower(name), bench.decoding(bench.photos)
    model = gpu_photos.random_model(name)
    config = open_clip.get_model_config(name)
    text = config["text_cfg"]
    tokenizer = gpu_photos.MadeUpTokenizer(text["context_length"], text["vocab_size"])
    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), False)
    encoder = OpenClipEncoder(name, model, preprocess, tokenizer, config, bench.device)
    rates = indexing(bench, bench.photos, encoder)
    what = f"`search index`, {name} (224), the photos of {_size(bench.sizes.photo)}"
    details = {"decoding alone": decoding}
    return [_indexed(what, rates, None, limit, "the tower alone", 0.85, details)]


def index_lite(bench: Bench) -> list[Record]:
    """`search index` with the embedded model."""
    from retrieval.encoders import load_encoder

    limit = bench.decoding(bench.photos)
    rates = indexing(bench, bench.photos, load_encoder("lite", bench.device))
    what = f"`lite`, the photos of {_size(bench.sizes.photo)}"
    return [_indexed(what, rates, 4000, limit, "decoding alone")]


def _indexed(
    what: str,
    rates: Rates,
    target: float | None,
    limit: float,
    limit_name: str,
    least_ratio: float | None = None,
    details: dict[str, float] | None = None,
) -> Record:
    runs, entire = rates.reported, {"entire runs": rates.entire, **(details or {})}
    return Record(
        what, median(runs), "images/s", target, True, limit, limit_name, least_ratio, runs, rates.note, entire
    )


def encode(bench: Bench) -> list[Record]:
    """`encode_images` of batches that are ready."""
    limit, encoder = bench.tower(bench.sizes.vit), bench.encoder
    files = sorted(bench.photos.iterdir())[: bench.sizes.distinct]
    photos = [decode(file.read_bytes(), encoder.image_size) for file in files]
    prepared = [encoder.prepare(photo) for photo in photos]
    count, step = bench.sizes.ready, encoder.batch_size
    ready = [prepared[number % len(prepared)] for number in range(count)]
    batches = [ready[low : low + step] for low in range(0, count, step)]

    def rates(threads: int) -> list[float]:
        def run() -> float:
            with ThreadPoolExecutor(threads) as pool:
                started = time.perf_counter()
                list(pool.map(encoder.encode_images, batches))
                return count / (time.perf_counter() - started)

        run()
        return bench.repeated(run)

    runs, alone = rates(CALLERS), rates(1)
    shape = f"{prepared[0].shape} {prepared[0].dtype}"
    note = f"batches of {step} arrays {shape} in memory, to arrays in memory, by {CALLERS} threads as in indexing; "
    note += f"by one: {median(alone):,.0f} images/s"
    what = f"`encode_images`, {bench.sizes.vit}, batches ready"
    return [Record(what, median(runs), "images/s", None, True, limit, "the tower alone", 0.7, runs, note)]


def agreement(bench: Bench) -> list[Record]:
    """Embeddings and rankings on the device against those on the processor in float32."""
    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.sample_texts import sample_texts

    count = bench.sizes.agreement
    crops = gpu_photos.sample_crops(count // 2, *bench.sizes.photo)
    files = sorted(bench.photos.iterdir())
    photos = [Photo(crop, crop.shape[1], crop.shape[0], None) for crop in crops]
    photos += [decode(files[number].read_bytes(), 224) for number in range(min(count - len(crops), len(files)))]
    texts = sample_texts(bench.sizes.queries)
    on_cpu = load_openclip(str(bench.vit), "cpu")
    expected, expected_texts = _embeddings(on_cpu, photos), on_cpu.encode_texts(texts).embeddings
    embeddings, text_embeddings = _embeddings(bench.encoder, photos), bench.encoder.encode_texts(texts).embeddings
    cosines = (expected * embeddings).sum(axis=1)
    similarities = expected_texts @ expected.T
    orders = np.argsort(-(text_embeddings @ embeddings.T), axis=1)
    gap = max(inversion(row, order) for row, order in zip(similarities, orders, strict=True))
    spread = float(similarities.std(axis=1).mean())
    kinds = f"{len(crops)} crops of sample photos, {len(photos) - len(crops)} of 1/f noise; random weights"
    note = f"standard deviation of a query's similarities {spread:.4f}"
    cosine, what = float(cosines.min()), f"least cosine to the processor's float32, {len(photos):,} photos"
    return [
        Record(what, cosine, "", 0.9995, note=kinds),
        Record(f"largest inversion in the rankings of {len(texts)} queries", gap, "", 1e-3, False, note=note),
    ]


def inversion(similarities: np.ndarray, order: np.ndarray) -> float:
    """By how much a similarity exceeds that of an image which `order` puts before it, at most; 0 where none does."""
    ranked = similarities[order]
    best_later = np.maximum.accumulate(ranked[::-1])[::-1]
    return float((best_later - ranked).max())


def _embeddings(encoder: Any, photos: list[Photo]) -> np.ndarray:
    step = encoder.batch_size
    batches = [photos[low : low + step] for low in range(0, len(photos), step)]
    prepared = ([encoder.prepare(photo) for photo in batch] for batch in batches)
    return np.concatenate([encoder.encode_images(inputs).embeddings for inputs in prepared])


def _size(photo: tuple[int, int]) -> str:
    return f"{photo[0]}x{photo[1]}"
