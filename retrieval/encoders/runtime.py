"""How a model file runs: ONNX Runtime sessions."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from indexes.errors import CrosslookError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_SHARING = Lock()


def open_session(model: Path, device: str = "cpu", remedy: str = "reinstall crosslook") -> InferenceSession:
    """A session over one ONNX file. remedy: what to do where the file is damaged.

    Raises `CrosslookError` when the file is missing or damaged."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    providers = ["CPUExecutionProvider"]
    if device != "cpu" and has_cuda():
        providers.insert(0, "CUDAExecutionProvider")
    with _SHARING:
        _share_threads()
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = str(error).splitlines()[0]
        raise CrosslookError(f"cannot load {model}: {reason} ({remedy})") from error


@cache
def _share_threads() -> None:
    """One pool for all sessions, of as many threads as this process may use. With pools of their own, the waiting
    threads of each would take the cores from the one that computes."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    with suppress(Fail):  # others in this process have made one, which is then shared as well
        onnxruntime.set_global_thread_pool_sizes(usable_cores(), 1)


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
