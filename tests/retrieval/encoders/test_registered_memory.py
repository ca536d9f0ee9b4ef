"""Host memory that a GPU reads where it is, against a made-up runtime."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import numpy as np
import pytest

from retrieval.encoders.registered_memory import is_registered, registered

pytestmark = pytest.mark.torch


def blocks(count):
    return list(np.zeros((count, 4096), np.uint8))


def test_without_a_gpu_memory_is_not_registered():
    parts = blocks(1)
    with registered(parts):
        assert not is_registered(parts[0])


class Runtime:
    """CUDA's runtime, as torch has it. room: parts that can be registered. calls: what was done. may_go: waited for
    before the second part."""

    class cudaError:
        success = 0

    def __init__(self, room):
        self._room = room
        self.calls = []
        self.may_go = threading.Event()
        self.ended = threading.Event()

    def cudaHostRegister(self, pointer, size, flags):
        if len(self.calls) == 1:
            assert self.may_go.wait(20)
        self.calls.append(("register", pointer, size))
        return 0 if len(self.calls) <= self._room else 2

    def cudaHostUnregister(self, pointer):
        self.calls.append(("unregister", pointer))
        return 0


@pytest.fixture
def runtime_of(monkeypatch):
    import torch

    def make(room):
        runtime = Runtime(room)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
        monkeypatch.setattr(torch.cuda, "device", lambda number: nullcontext(number))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda number: runtime.calls.append(("synchronize", number)))
        return runtime

    return make


def wait_until(condition):
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize("room", [0, 2, 3])
def test_parts_are_registered_one_by_one_beside_the_work_and_a_refusal_is_no_error(runtime_of, room):
    parts, runtime = blocks(3), runtime_of(room)
    runtime.may_go.set()
    done = [part.ctypes.data for part in parts][:room]
    attempts = [("register", part.ctypes.data, 4096) for part in parts][: room + 1]
    with registered(parts):
        wait_until(lambda: len(runtime.calls) == len(attempts))
        assert runtime.calls == attempts
    assert runtime.calls[len(attempts) :] == ([("synchronize", 1)] if done else []) + [
        ("unregister", address) for address in done
    ]
    assert "register" not in [thread.name for thread in threading.enumerate()]


def test_the_work_waits_for_no_part_and_an_early_end_leaves_the_others(runtime_of):
    parts, runtime = blocks(5), runtime_of(5)
    with pytest.raises(KeyError), registered(parts):
        wait_until(lambda: len(runtime.calls) == 1)
        threading.Timer(0.1, runtime.may_go.set).start()
        raise KeyError
    names = [name for name, *_ in runtime.calls]
    assert names in (
        ["register", "register", "synchronize", "unregister", "unregister"],
        ["register", "synchronize", "unregister"],
    )
