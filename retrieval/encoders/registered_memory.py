"""Host memory that a GPU reads where it is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PORTABLE = 1  # cudaHostRegisterPortable


def is_registered(photo: NDArray[np.uint8]) -> bool:
    """Whether a GPU can read these pixels where they are: they lie in memory that is `registered`, or pinned."""
    import torch

    if not (torch.cuda.is_initialized() and photo.flags.writeable and photo.flags.c_contiguous):
        return False
    return bool(torch.from_numpy(photo).is_pinned())


@contextmanager
def registered(parts: Sequence[NDArray[np.uint8]]) -> Iterator[None]:
    """Lets a GPU that this process uses read host memory where it is; without a GPU it does nothing. A thread registers
    one part after the other, which takes half a second for a gigabyte, while the block goes on. Where the system
    refuses, the parts that are left stay as they are.

    parts: writable; no two share a page of memory. At the end all copies from them are waited for."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        yield
        return
    registering = _Registering(torch, parts)
    registering.start()
    try:
        yield
    finally:
        registering.undo()


class _Registering(threading.Thread):
    def __init__(self, torch: Any, parts: Sequence[NDArray[np.uint8]]) -> None:
        super().__init__(name="register", daemon=True)
        self._torch = torch
        self._parts = parts
        self._gpu = torch.cuda.current_device()  # another thread has another one
        self._is_stopped = threading.Event()
        self._done: list[int] = []  # addresses

    def run(self) -> None:
        runtime = self._torch.cuda.cudart()
        with self._torch.cuda.device(self._gpu):
            for part in self._parts:
                address = part.ctypes.data
                if self._is_stopped.is_set():
                    return
                try:
                    status = runtime.cudaHostRegister(address, part.nbytes, _PORTABLE)
                except (RuntimeError, AttributeError):
                    return
                if status != runtime.cudaError.success:  # this thread ends, and with it what CUDA keeps of the error
                    return
                self._done.append(address)

    def undo(self) -> None:
        self._is_stopped.set()
        self.join()
        if self._done:
            runtime = self._torch.cuda.cudart()
            self._torch.cuda.synchronize(self._gpu)
            for address in self._done:
                runtime.cudaHostUnregister(address)
