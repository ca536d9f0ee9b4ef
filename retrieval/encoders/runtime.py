"""How a model file runs: ONNX Runtime sessions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from indexes.errors import CrosslookError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_session(
    model: Path, device: str = "cpu", threads: int | None = None, remedy: str = "reinstall crosslook"
) -> InferenceSession:
    """A session over one ONNX file, by default on as many threads as this process may use. remedy: what to do where the
    file is damaged.

    Raises `CrosslookError` when the file is missing or damaged."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    providers = ["CPUExecutionProvider"]
    if device != "cpu" and has_cuda():
        providers.insert(0, "CUDAExecutionProvider")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = str(error).splitlines()[0]
        raise CrosslookError(f"cannot load {model}: {reason} ({remedy})") from error


def has_cuda() -> bool:
    """Whether this ONNX Runtime can use a GPU."""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def check_device(device: str) -> None:
    """Raises `CrosslookError` when `cuda` is asked for and not there."""
    if device == "cuda" and not has_cuda():
        raise CrosslookError("this ONNX Runtime has no CUDA: use --device cpu, or install onnxruntime-gpu in its place")


def usable_cores() -> int:
    """Cores this process may use, which are fewer than the machine's under taskset or a container's cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
