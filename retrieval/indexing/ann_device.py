"""Which device makes an ANN index, and what happens where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from indexes.manifest import AnnEntry
from indexes.on_device.base import DeviceError
from indexes.on_device.choosing import check, find_backend

FEWEST_FOR_GPU = 500_000  # rows: with fewer, a GPU takes as long to start as it saves


def with_device(
    make: Callable[..., AnnEntry], path: Path, device: str, rows: int, note: Callable[[str], None]
) -> AnnEntry:
    """What `make` returns for a path and, where there is one, a backend. Where a GPU fails, the processor does
    everything anew, after a note. device: `cpu`, `cuda` for a GPU, `auto` for a GPU where there is one and the
    collection has many rows. Raises `CrosslookError` for `cuda` without a GPU, and what `make` raises."""
    if device == "auto" and rows < FEWEST_FOR_GPU:
        device = "cpu"
    try:
        backend = find_backend(device)
        if backend is not None:
            check(backend)
            return make(path, backend)
    except DeviceError as error:
        note(f"the processor makes the ANN index, since the GPU cannot: {error}")
    return make(path)
