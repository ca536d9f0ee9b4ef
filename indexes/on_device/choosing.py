"""Which library reaches a GPU here, and whether it computes what it should."""

from __future__ import annotations

from functools import cache

import numpy as np

from indexes.ann.faiss_module import import_faiss
from indexes.errors import CrosslookError
from indexes.exact import nearest
from indexes.on_device.base import Backend, DeviceError
from indexes.on_device.certificate import Special, certified, product_errors
from indexes.on_device.faiss_matrix import FaissBackend
from indexes.on_device.gpus import DEVICES, cuda_device, may_have_gpu
from indexes.on_device.torch_backend import TorchBackend

CHECKED_ROWS, CHECKED_DIM = 2000, 60


def find_backend(device: str) -> Backend | None:
    """The backend of `auto`, `cpu` or `cuda`; None for the processor alone: for `cpu`, and for `auto` where no GPU is.
    `auto` imports torch only where a GPU is.

    Raises `CrosslookError` for another name, and for `cuda` where no library finds a GPU."""
    if device not in DEVICES:
        raise CrosslookError(f"{device} is not auto, cpu or cuda")
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        return None
    gpu = cuda_device()
    if gpu is not None:
        return TorchBackend(gpu)
    if _faiss_has_gpu():
        return FaissBackend()
    if device == "cuda":
        raise CrosslookError("neither torch nor FAISS finds a CUDA device: use --device cpu")
    return None


@cache
def check(backend: Backend) -> None:
    """Search a few known rows. Raises `DeviceError` unless the results, and the products, are right."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(CHECKED_ROWS, CHECKED_DIM))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    queries = rows[:20].astype(np.float32) + rng.normal(scale=0.05, size=(20, CHECKED_DIM)).astype(np.float32)
    mask = rng.random(CHECKED_ROWS) < 0.1
    matrix = backend.matrix(CHECKED_DIM, CHECKED_ROWS)
    matrix.add(rows)
    none = Special(np.zeros(0, np.int64), np.zeros((0, CHECKED_DIM), np.float32))
    result = certified(matrix, queries, 10, CHECKED_ROWS, matrix.barred(mask), none)
    similarities, positions = nearest(queries, [rows], [~mask], 10)
    is_right = result.is_certain.mean() > 0.5 and (result.similarities == similarities)[result.is_certain].all()
    lists = matrix.shortlists(queries, 100, CHECKED_ROWS, None)
    dots = np.vecdot(rows.astype(np.float32)[lists.rows], queries[:, None])
    rounding = np.spacing(np.abs(lists.products).astype(np.float16)).astype(np.float64)
    is_near = np.abs(lists.products - dots) <= product_errors(queries, matrix.norm)[:, None] + rounding
    if not (is_right and (result.rows == positions)[result.is_certain].all() and is_near.all()):
        raise DeviceError(f"{backend.name} computes wrong products")


def _faiss_has_gpu() -> bool:
    try:
        faiss = import_faiss()
    except Exception:  # not installed, or broken
        return False
    return hasattr(faiss, "GpuIndexFlatIP") and faiss.get_num_gpus() > 0
