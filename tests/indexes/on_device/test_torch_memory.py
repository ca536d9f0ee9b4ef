"""Free memory of a GPU, by a made-up one, and the errors of one that has none."""

from __future__ import annotations

import numpy as np
import pytest

from indexes.on_device.torch_memory import free_bytes, lacks_memory

pytestmark = pytest.mark.torch


def test_what_torch_keeps_of_freed_memory_is_free(monkeypatch):
    import torch

    cached = [3_000]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: cached.__setitem__(0, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000 - cached[0], 20_000))
    assert free_bytes("cuda") == free_bytes(torch.device("cuda", 0)) == 10_000
    assert free_bytes("cpu") == np.inf


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 588.00 MiB.", True),
        ("RuntimeError", "CUDA error: out of memory", True),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("RuntimeError", "CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_errors_of_memory_are_known(kind, message, expected):
    import torch

    assert lacks_memory(getattr(torch, kind, RuntimeError)(message)) is expected
    assert not lacks_memory(ValueError("out of memory"))
