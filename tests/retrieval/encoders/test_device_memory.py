"""Batches that fit into a GPU's memory, by made-up lacks of it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retrieval.encoders.device_memory import FittingBatches, GpuMemoryError, batch_that_fits, memory_for

pytestmark = pytest.mark.torch
LACKS = ["CUDA out of memory. Tried to allocate 2 MiB.", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when"]


def lack(message=LACKS[0]):
    import torch

    return torch.cuda.OutOfMemoryError(message) if message is LACKS[0] else RuntimeError(message)


@pytest.mark.parametrize("message", LACKS)
@pytest.mark.parametrize("room", [1, 3, 16, 17])
def test_every_item_is_computed_whatever_room_there_is(message, room):
    items, calls = np.arange(50), []

    def compute(part):
        calls.append(len(items[part]))
        if calls[-1] > room:
            raise lack(message)
        return items[part] * 2, -items[part]

    fitting = FittingBatches(16, "an item")
    for _ in range(2):
        doubled, negative = fitting(len(items), compute)
        assert doubled.tolist() == (items * 2).tolist() and negative.tolist() == (-items).tolist()
    assert sum(size > room for size in calls) <= 4, "it is remembered how much fits"


def test_no_room_for_one_and_other_errors_are_raised():
    import torch

    def compute(part):
        raise lack()

    with pytest.raises(GpuMemoryError, match="^the GPU has too little free memory for a photo: use --device cpu$"):
        FittingBatches(4, "a photo")(9, compute)

    def fail(part):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="^shapes differ$"):
        FittingBatches(4, "a photo")(9, fail)
    with pytest.raises(RuntimeError, match="^shapes differ$"), memory_for("the weights"):
        raise RuntimeError("shapes differ")
    with pytest.raises(GpuMemoryError, match="for the weights"), memory_for("the weights"):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_an_item_that_does_not_fit_beside_the_batch_of_another_thread_waits_for_it():
    """The other thread's batch takes all memory until it ends."""
    begun, is_taken, ended = threading.Event(), threading.Event(), threading.Event()
    fitting = FittingBatches(8, "an item")
    refused, together = [], []

    def large(part):
        begun.set()
        assert is_taken.wait(20)
        ended.set()
        return (np.arange(8)[part],)

    def small(part):
        if not ended.is_set():
            refused.append(part)
            is_taken.set()
            raise lack()
        together.append(part.stop - part.start)
        return (np.arange(8)[part],)

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(fitting, 8, large)
        assert begun.wait(20)
        assert fitting(8, small)[0].tolist() == list(range(8))
        assert other.result()[0].tolist() == list(range(8))
    assert len(refused) == 1 and together == [4, 4]


@pytest.mark.parametrize(
    ("free", "each_takes", "size"),
    [(80e9, 5e6, 512), (8e9, 5e6, 256), (4e9, 50e6, 16), (1e9, 500e6, 8), (139e9, 60e6, 256)],
)
def test_batches_are_as_large_as_memory_allows(free, each_takes, size):
    assert batch_that_fits(int(free), int(each_takes), 512) == size
    assert batch_that_fits(int(free), int(each_takes), 64) == min(size, 64)
