"""Import FAISS where it is used, with the fastest kernels."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from indexes.errors import CrosslookError

CORE = "OPENBLAS_CORETYPE"
CPUINFO = Path("/proc/cpuinfo")
KERNELS = {  # of OpenBLAS, fastest first, with the features of a processor that they need
    "SkylakeX": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "Haswell": {"avx2", "fma"},
}


def import_faiss() -> Any:
    """The module `faiss`. Raises `CrosslookError` that names the extra to install."""
    try:
        with nullcontext() if "faiss" in sys.modules else _kernel_named():
            import faiss
    except ImportError as error:
        raise CrosslookError(
            "faiss is not installed: pip install 'crosslook[cpu]', or 'crosslook[gpu]' on a machine with a GPU"
        ) from error
    return faiss


@contextmanager
def _kernel_named() -> Iterator[None]:
    """Choose the kernel of the OpenBLAS in FAISS's package, unless the user does. It dates from 2021 and takes newer
    Intel processors for the oldest ones, so that matrix products, and making an index, take six times as long."""
    kernel = best_kernel()
    if kernel is None or CORE in os.environ:
        yield
        return
    os.environ[CORE] = kernel
    try:
        yield
    finally:
        del os.environ[CORE]


def best_kernel() -> str | None:
    """The fastest kernel that this processor can run, None if it is not known to be an x86 processor."""
    try:
        with CPUINFO.open() as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return None
    return next((name for name, needed in KERNELS.items() if needed <= set(flags)), None)
