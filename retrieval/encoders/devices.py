"""Which device computes? torch is imported only where it may find a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from indexes.errors import CrosslookError
from indexes.on_device.gpus import may_have_gpu


def check_device(device: str, purpose: str) -> None:
    """Raises `CrosslookError` for `cuda` where torch is not installed, without importing it. purpose: what needs it."""
    if device == "cuda" and find_spec("torch") is None:
        raise CrosslookError(
            f"{purpose} needs torch on --device cuda: pip install 'crosslook[gpu]', or use --device cpu"
        )


def gpu_of_torch(device: str) -> Any:
    """torch's GPU for a device `auto`, `cpu` or `cuda`; None for the processor. `auto` is a GPU where torch is
    installed and finds one.

    Raises `CrosslookError` for `cuda` without a GPU that torch can use."""
    check_device(device, "this model")
    if device == "cpu" or (device == "auto" and not (may_have_gpu() and find_spec("torch") is not None)):
        return None
    chosen = torch_device(device)
    return chosen if chosen.type == "cuda" else None


def torch_device(device: str) -> Any:
    """torch's device for `auto`, `cpu` or `cuda`, a GPU with its number: that which is current now, since every thread
    has its own current GPU. `auto` is a GPU if torch has one that starts.

    Raises `CrosslookError` for `cuda` without such a GPU."""
    import torch

    if device == "cpu":
        return torch.device("cpu")
    reason = "torch finds no CUDA device"
    if torch.cuda.is_available():
        try:
            return torch.device("cuda", torch.cuda.current_device())
        except RuntimeError as error:  # its driver fails, or another process has it for itself
            reason = f"torch cannot use the CUDA device ({(str(error).splitlines() or ['it failed'])[0]})"
    if device == "cuda":
        raise CrosslookError(f"{reason}: use --device cpu")
    return torch.device("cpu")
