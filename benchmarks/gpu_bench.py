"""What the parts of benchmarks/gpu.py share: sizes, time, and what is made or measured once."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import gpu_photos
import numpy as np
from gpu_records import median
from gpu_time import NoTime, ended_after
from numpy.typing import NDArray

from retrieval.cores import usable_cores

RUNS = 3
LONGEST = 1.5  # shares of its time that a part takes, at most
DECODED = 8000  # photos, at most, in a run of decoding alone


@dataclass(frozen=True)
class Sizes:
    """How much is measured. photos, large: files of `photo` and `large_photo`, width and height. mixed:
    files of other sizes. distinct,
    distinct_large: pictures among them. batches: in which a tower alone is tried. rows, ann_rows, cpu_rows: of
    searches. towers, of which small ones are made up: by open_clip's names."""

    photos: int
    distinct: int
    large: int
    mixed: int
    distinct_large: int
    large_photo: tuple[int, int]
    ready: int
    batches: tuple[int, ...]
    agreement: int
    queries: int
    rows: int
    ann_rows: int
    cpu_ann_rows: int
    pairs: int
    training: int
    training_batch: int
    photo: tuple[int, int] = (640, 480)
    vit: str = "ViT-B-32"
    siglip: str = "ViT-B-16-SigLIP2"
    dim: int = 388
    k: int = 100

    @property
    def bytes_on_disk(self) -> int:
        """About what photos, models and collections take."""
        pixels = self.photos * self.photo[0] * self.photo[1] + self.large * self.large_photo[0] * self.large_photo[1]
        return pixels // 2 + self.photos * 80_000 + 2_000_000_000


FULL = Sizes(
    photos=20_000,
    distinct=320,
    large=2000,
    mixed=4096,
    distinct_large=16,
    large_photo=(4000, 3000),
    ready=4096,
    batches=(256, 512, 1024),
    agreement=1000,
    queries=100,
    rows=10_000_000,
    ann_rows=10_000_000,
    cpu_ann_rows=1_000_000,
    pairs=200_000,
    training=16_384,
    training_batch=256,
)
SMALL = Sizes(
    photos=48,
    distinct=6,
    large=6,
    mixed=24,
    distinct_large=2,
    large_photo=(1600, 1200),
    ready=32,
    batches=(8, 16),
    agreement=16,
    queries=8,
    rows=10_000,
    ann_rows=10_000,
    cpu_ann_rows=10_000,
    pairs=300,
    training=40,
    training_batch=8,
    vit="small-ViT",
    siglip="small-SigLIP",
)

SMALL_CONFIGS: dict[str, dict[str, Any]] = {
    "small-ViT": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 128, "head_width": 64, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "small-SigLIP": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 128, "head_width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 64,
            "vocab_size": 1000,
            "width": 64,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
        },
    },
}


class Bench:
    """device: cpu or cuda. deadline: of `time.monotonic`, after which nothing is begun. folder: for all files; this
    removes it at the end."""

    def __init__(self, device: str, sizes: Sizes, seconds: float, folder: Path | None) -> None:
        self.device, self.sizes = device, sizes
        self.deadline = self._part_ends = time.monotonic() + seconds
        self.cores = usable_cores()
        self.folder = gpu_photos.working_folder(folder, sizes.bytes_on_disk)
        self._cache = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = str(self.folder / "cache")  # nothing that an earlier run left is used
        for name in (sizes.vit, sizes.siglip):
            if name in SMALL_CONFIGS:
                gpu_photos.register_architecture(self.folder, name, SMALL_CONFIGS[name])

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.environ.pop("XDG_CACHE_HOME")
        if self._cache is not None:
            os.environ["XDG_CACHE_HOME"] = self._cache

    @property
    def left(self) -> float:
        """Seconds of the part that is running."""
        return min(self.deadline, self._part_ends) - time.monotonic()

    @contextmanager
    def part_of(self, seconds: float) -> Iterator[None]:
        """For one part, so long: it repeats its runs less often, and where it takes `LONGEST` times as long it is ended
        with `NoTime`, unless sizes are small. Raises `NoTime` where less than half of that is left."""
        self._part_ends = self.deadline
        self.need(seconds / 2)
        self._part_ends = time.monotonic() + seconds
        try:
            with ended_after(LONGEST * seconds) if self.sizes is FULL else nullcontext():
                yield
        finally:
            self._part_ends = self.deadline

    def need(self, seconds: float) -> None:
        """Raises `NoTime` unless that much time is left. Small sizes need a tenth."""
        seconds = seconds if self.sizes is FULL else seconds / 10
        if self.left < seconds:
            raise NoTime(f"no time ({max(self.left, 0):.0f} s left of the {seconds:.0f} that it takes)")

    def repeated(self, run: Callable[[], float], runs: int = RUNS) -> list[float]:
        """The results of `run`, at least one, and up to `runs` as long as time is left for two more of the same."""
        results: list[float] = []
        while len(results) < runs:
            started = time.monotonic()
            results.append(run())
            if self.left < 2 * (time.monotonic() - started):
                break
        return results

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def release(self) -> None:
        """Gives memory back between parts."""
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()

    @cached_property
    def photos(self) -> Path:
        """A folder of photos of the usual size."""
        sizes = self.sizes
        return gpu_photos.write_photos(self.folder / "photos", sizes.photos, *sizes.photo, sizes.distinct, self.cores)

    @cached_property
    def mixed_photos(self) -> Path:
        """A folder of photos of many sizes."""
        return gpu_photos.write_sizes(self.folder / "mixed", self.photos, self.sizes.mixed)

    @cached_property
    def large_photos(self) -> Path:
        """A folder of photos as cameras take them."""
        sizes = self.sizes
        return gpu_photos.write_photos(
            self.folder / "large", sizes.large, *sizes.large_photo, sizes.distinct_large, self.cores
        )

    @cached_property
    def vit(self) -> Path:
        """The directory of the model that most parts index with."""
        return gpu_photos.write_model(self.folder / "vit", self.sizes.vit)

    @cached_property
    def encoder(self) -> Any:
        """That model on the device."""
        from retrieval.encoders.openclip_loading import load_openclip

        return load_openclip(str(self.vit), self.device)

    @cached_property
    def embeddings(self) -> NDArray[np.float16]:
        """Made-up embeddings of as many rows as are searched."""
        sizes = self.sizes
        return gpu_photos.made_up_embeddings(self.device, max(sizes.rows, sizes.ann_rows), sizes.dim)

    @cache  # noqa: B019  (one object in a process)
    def decoding(self, folder: Path) -> float:
        """Photos that all cores decode a second, in processes, and do nothing else."""
        files = sorted(folder.iterdir())[:DECODED]
        step = max(1, len(files) // (8 * self.cores))
        chunks = [files[low : low + step] for low in range(0, len(files), step)]
        with gpu_photos.processes(self.cores) as pool:
            list(pool.map(decode_files, [files[:2]] * 4 * self.cores))  # the imports

            def run() -> float:
                started = time.perf_counter()
                done = sum(pool.map(decode_files, chunks))
                return done / (time.perf_counter() - started)

            return median(self.repeated(run))

    @cache  # noqa: B019
    def tower(self, architecture: str) -> float:
        """Images that an image tower encodes a second, by itself, in the best of some batch sizes: open_clip's
        `encode_image` of one batch that is on the device, in bfloat16 on a GPU."""
        import torch

        precision = "pure_bf16" if self.device == "cuda" else "fp32"
        model = gpu_photos.random_model(architecture, precision=precision, device=self.device).eval()
        model = model.to(memory_format=torch.channels_last)
        kind, side = next(model.parameters()).dtype, model.visual.image_size
        side = side[0] if isinstance(side, tuple | list) else side
        rates = []
        with torch.inference_mode():
            for batch in self.sizes.batches:
                pixels = torch.rand(batch, 3, side, side, device=self.device, dtype=kind)
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                rates.append(self.rate(lambda pixels=pixels: model.encode_image(pixels), batch))
        return max(rates)

    def rate(self, work: Callable[[], object], units: int, least_seconds: float = 0.5) -> float:
        """Units a second of `work`, each call of which does `units`; the median of three measurements."""
        work()
        self.synchronize()
        started = time.perf_counter()
        work()
        self.synchronize()
        calls = max(1, min(200, round(least_seconds / max(time.perf_counter() - started, 1e-6))))

        def run() -> float:
            started = time.perf_counter()
            for _ in repeat(None, calls):
                work()
            self.synchronize()
            return calls * units / (time.perf_counter() - started)

        return median(self.repeated(run))


def decode_files(files: list[Path]) -> int:
    """Decodes files as indexing does, for a model of 224 pixels; returns how many."""
    from retrieval.images import decode

    for file in files:
        decode(file.read_bytes(), 224)
    return len(files)
