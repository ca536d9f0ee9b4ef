"""A GPU's memory: batches that fit into it, and what is said when nothing does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from indexes.on_device.torch_memory import lacks_memory

SMALLEST_BATCH = 8
# Of the free memory, for the items of one batch. Two batches are on a GPU at once, each with as much again for photos
# before they are resized.
SHARE_OF_BATCH = 0.2
REMEDY = ": use --device cpu"
MEASURED = 16  # images whose memory is measured


class GpuMemoryError(CrosslookError):
    """A GPU has too little free memory. what: for which."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the GPU has too little free memory for {what}{REMEDY}")


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Raises `GpuMemoryError` in the place of what torch raises for a lack of memory."""
    try:
        yield
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        raise GpuMemoryError(what) from error


class FittingBatches:
    """Computes many items in batches that fit into a GPU's memory. If it lacks memory, batches are halved, now and
    later, and from then on no two are computed at once. May be used by several threads."""

    def __init__(self, largest: int, item: str) -> None:
        """largest: items of a batch. item: one of them, in words."""
        self._at_once = largest
        self._item = item
        self._is_short = False
        self._running = 0
        self._changed = Condition()

    def __call__(self, count: int, compute: Callable[[slice], tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
        """What `compute` gives of all items, one or more. compute: arrays of a slice of the items, with a row of each.

        Raises `GpuMemoryError` if memory is too short for a single item."""
        parts: list[tuple[NDArray[Any], ...]] = []
        low = 0
        while low < count:
            with self._turn() as is_alone:
                part = slice(low, min(count, low + self._at_once))
                try:
                    parts.append(compute(part))
                    low = part.stop
                    continue
                except RuntimeError as error:
                    if not lacks_memory(error):
                        raise
                    self._is_short = True
                    if is_alone and part.stop - low <= 1:
                        raise GpuMemoryError(self._item) from error
                self._at_once = min(self._at_once, max(1, (part.stop - low) // 2))
                _empty_cache()  # outside of the handler, whose error holds the tensors of the batch
        return parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Beside others, or, once memory was short, alone; gives whether alone."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_short and self._running))
            self._running += 1
            is_alone = self._is_short
        try:
            yield is_alone
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


def _empty_cache() -> None:
    """Gives back to the GPU what torch keeps for later."""
    import torch

    torch.cuda.empty_cache()


def batch_on_gpu(device: Any, encode: Callable[[int], object], largest: int) -> int:
    """How many images are encoded fastest together: as many as fill a GPU, and fit its free memory; `largest` on
    another device. encode: encodes so many images."""
    import torch

    if device.type != "cuda":
        encode(1)
        return largest
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    encode(MEASURED)
    bytes_an_image = (torch.cuda.max_memory_allocated(device) - before) // MEASURED
    return batch_that_fits(torch.cuda.mem_get_info(device)[0], bytes_an_image, largest)


def batch_that_fits(free_bytes: int, bytes_an_image: int, largest: int) -> int:
    """The largest batch that fits, of `largest` images or half as many, and so on, down to `SMALLEST_BATCH`."""
    size = largest
    while size > SMALLEST_BATCH and size * bytes_an_image > SHARE_OF_BATCH * free_bytes:
        size //= 2
    return size
