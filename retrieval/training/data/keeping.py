"""Which features stay on the device of the training?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.training.data.features import Features
from retrieval.training.parallel import current_device, on_device

ARRAYS = ("tokens", "text_embeddings", "global_features", "cells")  # the smallest first
AT_ONCE = 64_000_000  # bytes on their way


def kept_on_device(parts: Sequence[Features], room: int) -> list[Features]:
    """The same features, of which those arrays stay on the device that fit. They take what they take on disk (float16).

    room: in bytes. What does not fit is read again for every batch."""
    result = []
    for features in parts:
        kept = {}
        for name in ARRAYS:
            array: NDArray[np.float16] = getattr(features, name)
            if array.nbytes <= room:
                kept[name] = _copied(array)
                room -= array.nbytes
        result.append(replace(features, kept=kept))
    return result


def _copied(array: NDArray[np.float16]) -> torch.Tensor:
    """float16 of the same shape. Of arrays of several views, the second axis is read in parts, as it lies on disk."""
    axis = 1 if array.ndim > 2 else 0
    copied = torch.empty(array.shape, dtype=torch.float16, device=current_device())
    count = max(1, AT_ONCE * array.shape[axis] // max(1, array.nbytes))
    for low in range(0, array.shape[axis], count):
        part = (slice(None),) * axis + (slice(low, low + count),)
        copied[part] = on_device(np.array(array[part]))
    return copied
