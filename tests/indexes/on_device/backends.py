"""The backends that the tests of a device's search run by."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from indexes.on_device.base import Backend
from indexes.on_device.faiss_matrix import FaissBackend
from indexes.on_device.torch_backend import TorchBackend
from tests.indexes.on_device.numpy_matrix import NumpyBackend

BACKENDS = ["numpy", "faiss", pytest.param("torch", marks=pytest.mark.torch)]


def backend_of(name: str) -> Backend:
    """`faiss` needs the fixture `faked_faiss`."""
    backends: dict[str, Callable[[], Backend]] = {
        "numpy": NumpyBackend,
        "faiss": FaissBackend,
        "torch": lambda: TorchBackend("cpu"),
    }
    return backends[name]()
