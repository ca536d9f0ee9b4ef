"""How a model file runs: ONNX Runtime sessions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from indexes.errors import CrosslookError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DEVICES = ("auto", "cpu", "cuda")


def open_session(model: Path, device: str = "cpu") -> InferenceSession:
    """A session over one ONNX file, on as many threads as this process may use.

    Raises `CrosslookError` when the file is missing or damaged, or when `cuda` is asked for and not there."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    providers = ["CPUExecutionProvider"]
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise CrosslookError("this ONNX Runtime has no CUDA: use --device cpu, or install onnxruntime-gpu in its place")
    if device != "cpu" and has_cuda:
        providers.insert(0, "CUDAExecutionProvider")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = str(error).splitlines()[0]
        raise CrosslookError(f"cannot load {model}: {reason} (reinstall crosslook)") from error


def usable_cores() -> int:
    """Cores this process may use, which is less than the machine's in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
