"""The adapter of a scorer for another encoder, on a device of torch. `adapter.onnx` has the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.encoders.device_memory import FittingBatches, memory_for
from retrieval.encoders.on_device import fetched, separate_stream
from retrieval.training.stored_model import StoredAdapter, read_model

LARGEST_BATCH = 512  # images


class DeviceAdapter:
    """May be called from several threads."""

    def __init__(self, folder: Path, device: Any) -> None:
        """folder: the model directory. Raises `CrosslookError` if its weights cannot be read, or a GPU lacks
        memory for them."""
        self._device = device
        self._fitting = FittingBatches(LARGEST_BATCH, "the regions of an image")
        with memory_for("the adapter"):
            self._adapter = StoredAdapter(read_model(folder)[0]).eval().to(device)

    def __call__(self, regions: NDArray[Any], embeddings: NDArray[np.float32]) -> NDArray[np.int8]:
        """The stored regions, int8 [n, regions, region_dim], of those that the encoder gives, [n, ...], and its
        embeddings, float32 [n, dim], of one image or more.

        Raises `CrosslookError` if a GPU lacks memory for a single image."""
        adapted = self._fitting(len(regions), lambda part: self.compute(regions[part], embeddings[part]))[0]
        return np.asarray(adapted)

    def compute(self, regions: NDArray[Any], embeddings: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """The stored regions, all at once. Raises what torch raises."""
        with separate_stream(self._device), torch.inference_mode():
            cells, global_features = (torch.from_numpy(item).to(self._device) for item in (regions, embeddings))
            return tuple(fetched(self._adapter(cells.float(), global_features)))
