"""What shortens the time until torch has a model ready to compute."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from indexes.on_device.gpus import cuda_device

RANDOM_INITIALISERS = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
)
RANDOM_METHODS = ("uniform_", "normal_", "erfinv_")  # the last is a step of truncated normal numbers


@contextmanager
def starting(device: str) -> Iterator[None]:
    """Starts a CUDA device in a thread while the block imports and reads, which takes as long. Ends when both have.

    device: auto, cpu or cuda. Errors of the device are left to its first use."""
    gpu = None if device == "cpu" else cuda_device()
    if gpu is None:
        yield
        return
    thread = threading.Thread(target=start_device, args=(gpu,), name="starting the device")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def start_device(device: str) -> None:
    """Makes the device's context, and loads the libraries of matrix products and convolutions, by computing one of
    each. Errors are ignored."""
    import torch

    with suppress(Exception):
        image = torch.ones(1, 3, 32, 32, device=device, dtype=torch.bfloat16)
        filters = torch.ones(8, 3, 16, 16, device=device, dtype=torch.bfloat16)
        map_of_cells = torch.nn.functional.conv2d(image, filters, stride=16).flatten(2)
        (map_of_cells.transpose(1, 2) @ map_of_cells).float().cpu()


def without_cudnn_attention(device: Any) -> None:
    """Lets a GPU compute attention by the kernels that torch brings, from now on in the whole process. cuDNN, which
    torch prefers on the newest GPUs, makes a plan for every new shape, which takes it tens of milliseconds; ours change
    from batch to batch. Does nothing for the processor.

    device: of torch, or its name. See `torch.backends.cuda.enable_cudnn_sdp`."""
    import torch

    if torch.device(device).type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def without_random_weights() -> Any:
    """A context in which new modules of torch get no random weights, which a checkpoint replaces anyhow. What is
    left in place of random numbers is undefined."""
    import torch
    from torch.overrides import TorchFunctionMode

    skipped = {getattr(torch.nn.init, name) for name in RANDOM_INITIALISERS}
    skipped |= {getattr(torch.Tensor, name) for name in RANDOM_METHODS}

    class Undrawn(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in skipped:
                return args[0] if args else kwargs["tensor"]
            return function(*args, **(kwargs or {}))

    return Undrawn()


def read_ahead(file: Path) -> None:
    """Asks the system to read a file into its cache in the background. Does nothing where it cannot."""
    if not hasattr(os, "posix_fadvise") or not file.is_file():
        return
    with suppress(OSError):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
