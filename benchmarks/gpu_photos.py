"""Photos, models and embeddings that are made on the spot: pictures of 1/f noise, and random numbers."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUALITY = 85
SLOPE = 1.3  # of the amplitudes of a photo over spatial frequency
WRITERS = 16
SIZES = 150  # of photos of many sizes
ROWS_AT_ONCE = 65_536
SPECTRUM = -0.5  # exponent of the standard deviations of made-up embeddings along their axes


def processes(count: int) -> Executor:
    """Processes that inherit nothing from this one, which may have a GPU's context."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"))


def noise_jpeg(seed: int, width: int, height: int) -> bytes:
    """A JPEG of 1/f noise, about as large as one of a photo of that size."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((3, height, width), dtype=np.float32))
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]).astype(np.float32)
    spectrum /= np.maximum(frequencies, 1 / height) ** np.float32(SLOPE)
    spectrum[:, 0, 0] = 0
    values = np.fft.irfft2(spectrum, s=(height, width))
    values /= values.std()
    values += rng.standard_normal(values.shape, dtype=np.float32) / 24  # of the sensor
    pixels = (128 + 48 * values).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def write_photos(folder: Path, count: int, width: int, height: int, distinct: int, cores: int) -> Path:
    """`count` files of `distinct` pictures. No two have the same content, nor the same size in bytes, so that none
    can be taken for known: bytes are added after the end of the JPEG."""
    with processes(cores) as pool:
        jpegs = list(pool.map(noise_jpeg, range(distinct), repeat(width), repeat(height)))
    folder.mkdir(parents=True, exist_ok=True)
    longest = max(map(len, jpegs))

    def write(number: int) -> None:
        jpeg = jpegs[number % distinct]
        (folder / f"{number:06d}.jpg").write_bytes(
            jpeg + bytes(longest - len(jpeg)) + b"%016d" % number + bytes(number)
        )

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, range(count)))
    return folder


def write_sizes(folder: Path, photos: Path, count: int) -> Path:
    """`count` photos of `SIZES` sizes: crops of `photos`."""
    from PIL import Image

    files = sorted(photos.iterdir())
    folder.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        with Image.open(files[number % len(files)]) as photo:
            less, left = number % SIZES, number // SIZES  # no two crops are the same picture
            box = (left, left, left + photo.width - SIZES - less, left + photo.height - SIZES - less)
            photo.crop(box).save(folder / f"{number:06d}.jpg", quality=QUALITY)

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, range(count)))
    return folder


def sample_crops(count: int, width: int, height: int) -> list[NDArray[np.uint8]]:
    """Random crops of sample photos, uint8 [height, width, 3] each; none where no sample photos are installed."""
    from PIL import Image

    from indexes.errors import CrosslookError
    from retrieval.samples import gather_samples

    with tempfile.TemporaryDirectory() as folder:
        try:
            photos = [Image.open(path).convert("RGB") for path in gather_samples(Path(folder))]
        except CrosslookError:
            return []
    rng, crops = np.random.default_rng(0), []
    for number in range(count):
        photo = photos[number % len(photos)]
        share = rng.uniform(0.3, 1)
        size = (max(1, int(photo.width * share)), max(1, int(photo.height * share)))
        left, top = rng.integers(photo.width - size[0] + 1), rng.integers(photo.height - size[1] + 1)
        box = (int(left), int(top), int(left) + size[0], int(top) + size[1])
        crops.append(np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR, box)))
    return crops


def working_folder(parent: Path | None, size: int) -> Path:
    """A new folder in `parent`, by default in memory if `size` bytes fit there twice, else in the temporary folder."""
    memory = Path("/dev/shm")
    if parent is None and memory.is_dir() and os.access(memory, os.W_OK):
        parent = memory if shutil.disk_usage(memory).free > 2 * size else None
    return Path(tempfile.mkdtemp(prefix="crosslook-gpu-", dir=parent))


def register_architecture(folder: Path, name: str, config: dict[str, Any]) -> None:
    """Makes a configuration known to open_clip."""
    import open_clip

    file = folder / f"{name}.json"
    file.write_text(json.dumps(config))
    open_clip.add_model_config(file)


def write_model(folder: Path, architecture: str) -> Path:
    """A model directory with random weights, as open_clip writes them."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = random_model(architecture)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": model.visual.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def random_model(architecture: str, **settings: Any) -> Any:
    """An open_clip model with random weights. settings: of `open_clip.create_model`."""
    import logging

    import open_clip

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # that the weights are random
    try:
        return open_clip.create_model(architecture, pretrained=None, **settings)
    finally:
        logging.disable(disabled)


class MadeUpTokenizer:
    """A tokeniser in the place of one that the model hub has: a number for each word."""

    def __init__(self, context_length: int, vocabulary: int) -> None:
        self.context_length = context_length
        self._vocabulary = vocabulary

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> Any:
        """int64 [n, context_length], padded with zeros."""
        import zlib

        import torch

        ids = torch.zeros(len(texts), context_length or self.context_length, dtype=torch.int64)
        for row, text in enumerate(texts):
            numbers = [zlib.crc32(word.encode()) % (self._vocabulary - 2) + 2 for word in text.split()]
            numbers = [*numbers[: ids.shape[1] - 1], 1]
            ids[row, : len(numbers)] = torch.tensor(numbers)
        return ids


def made_up_embeddings(device: str, rows: int, dim: int, seed: int = 0) -> NDArray[np.float16]:
    """Unit-norm embeddings, float16 [rows, dim], that vary along some axes more than along others, as those of photos
    do. They are made on the device, which is faster."""
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    deviations = torch.arange(1, dim + 1, device=device).float() ** SPECTRUM
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator, device=device)).Q
    embeddings = np.empty((rows, dim), np.float16)
    for low in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - low)
        values = torch.randn(count, dim, generator=generator, device=device) * deviations @ rotation
        embeddings[low : low + count] = torch.nn.functional.normalize(values, dim=1).half().cpu().numpy()
    return embeddings
