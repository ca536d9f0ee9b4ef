"""How much memory has a GPU left for torch, and has it run out?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from indexes.on_device.base import DeviceError

NO_MEMORY = "the GPU has no memory left"
# What libraries say of memory that they did not get, of which torch makes an error without a class of its own.
_REFUSALS = ("out of memory", "_ALLOC_FAILED")


def free_bytes(device: Any) -> float:
    """Memory that is free on a device of torch, by name or as torch has it; of the processor no end. torch gives back
    what it keeps of freed memory first, which would count as used."""
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return np.inf
    torch.cuda.empty_cache()
    return float(torch.cuda.mem_get_info(device)[0])


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory, or memory that it can read, did not suffice."""
    import torch

    is_refusal = isinstance(error, RuntimeError) and any(words in str(error) for words in _REFUSALS)
    return isinstance(error, torch.OutOfMemoryError) or is_refusal


@contextmanager
def device_errors() -> Iterator[None]:
    """What torch raises of a device that has no memory left, or fails, as a `DeviceError`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(NO_MEMORY) from error
    except RuntimeError as error:
        raise DeviceError(f"torch: {(str(error).splitlines() or ['failed'])[0]}") from error
