"""Names of devices, and whether this machine has a GPU. Importing it costs nothing."""

from __future__ import annotations

from pathlib import Path

DEVICES = ("auto", "cpu", "cuda")
# Of NVIDIA and AMD; under WSL the driver's library, since the device file /dev/dxg stands for any GPU.
GPUS = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/usr/lib/wsl/lib/libcuda.so.1"))


def may_have_gpu() -> bool:
    """Whether this machine has a file that only a GPU's driver makes. Takes microseconds."""
    return any(path.exists() for path in GPUS)


def cuda_device() -> str | None:
    """torch's name of the GPU that is current in this thread, with its number, since every thread has its own. Imports
    torch, which takes seconds. None if torch finds no CUDA device, cannot start it, is not installed, or is broken:
    then importing it raises errors of many types."""
    try:
        import torch

        return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else None
    except Exception:
        return None
