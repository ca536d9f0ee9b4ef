"""Which library reaches a GPU, and what is refused."""

from __future__ import annotations

import builtins
import sys
from types import SimpleNamespace

import pytest

from indexes.errors import CrosslookError
from indexes.on_device import choosing, faiss_matrix, gpus
from indexes.on_device.base import DeviceError
from indexes.on_device.choosing import check, find_backend
from indexes.on_device.faiss_matrix import FaissBackend
from tests.indexes.on_device.backends import BACKENDS, backend_of
from tests.indexes.on_device.fake_faiss import FullIndex, ShiftedIndex, fake_faiss


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets whether a GPU is there, whether torch has CUDA (None: it is not installed), and how many GPUs FAISS has."""

    def of(*, gpu: bool, cuda: bool | None, faiss: int = 0) -> None:
        monkeypatch.setattr(gpus, "GPUS", (tmp_path if gpu else tmp_path / "none",))
        functions = SimpleNamespace(is_available=lambda: cuda, current_device=lambda: 2)
        monkeypatch.setitem(sys.modules, "torch", None if cuda is None else SimpleNamespace(cuda=functions))
        monkeypatch.setattr(choosing, "import_faiss", lambda: fake_faiss(gpus=faiss))

    return of


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_torch_is_taken_and_faiss_where_torch_is_missing_or_has_no_cuda(machine, device):
    machine(gpu=True, cuda=True, faiss=1)
    backend = find_backend(device)
    assert backend is not None and backend.name == "torch on cuda:2"
    for cuda in (None, False):
        machine(gpu=True, cuda=cuda, faiss=1)
        assert find_backend(device) == FaissBackend()


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_of_torch_that_does_not_start_is_none(machine, monkeypatch, device):
    def fail() -> int:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")

    machine(gpu=True, cuda=True, faiss=1)
    monkeypatch.setattr(sys.modules["torch"].cuda, "current_device", fail)
    assert find_backend(device) == FaissBackend()


@pytest.mark.parametrize("error", [OSError("libcudart.so.13: cannot open shared object file"), RuntimeError("broken")])
def test_a_torch_that_cannot_be_used_is_no_torch(machine, monkeypatch, error):
    class Broken:
        @property
        def cuda(self):
            raise error

    imports = builtins.__import__

    def failing(name, *rest):
        if name == "torch":
            raise error
        return imports(name, *rest)

    machine(gpu=True, cuda=None, faiss=1)
    monkeypatch.setitem(sys.modules, "torch", Broken())
    assert find_backend("auto") == FaissBackend()
    monkeypatch.setattr(builtins, "__import__", failing)
    assert find_backend("auto") == FaissBackend()


def test_the_processor_is_taken_when_it_is_asked_for_or_no_gpu_works(machine):
    machine(gpu=True, cuda=True)
    assert find_backend("cpu") is None
    machine(gpu=True, cuda=None)
    assert find_backend("auto") is None


def test_without_a_gpu_auto_imports_nothing(machine, monkeypatch):
    machine(gpu=False, cuda=True)
    imported = []
    imports = builtins.__import__

    def noted(name, *rest):
        imported.append(name)
        return imports(name, *rest)

    monkeypatch.setattr(builtins, "__import__", noted)
    assert find_backend("auto") is None
    assert not {"torch", "faiss"} & set(imported)


@pytest.mark.parametrize("cuda", [None, False])
def test_cuda_without_a_gpu_is_one_line(machine, cuda):
    machine(gpu=False, cuda=cuda)
    with pytest.raises(CrosslookError, match="^neither torch nor FAISS finds a CUDA device: use --device cpu$"):
        find_backend("cuda")


@pytest.mark.parametrize("device", ["tpu", "", "CUDA", "cuda:0"])
def test_another_name_is_refused(device):
    with pytest.raises(CrosslookError, match="is not auto, cpu or cuda"):
        find_backend(device)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_that_computes_right_passes(name):
    check(backend_of(name))


def test_wrong_products_are_noticed(monkeypatch):
    check.cache_clear()
    monkeypatch.setattr(faiss_matrix, "import_faiss", lambda: fake_faiss(ShiftedIndex))
    with pytest.raises(DeviceError, match="FAISS on a GPU computes wrong products"):
        check(FaissBackend())


def test_a_full_gpu_is_one_line(monkeypatch):
    check.cache_clear()
    monkeypatch.setattr(faiss_matrix, "import_faiss", lambda: fake_faiss(FullIndex))
    with pytest.raises(DeviceError, match="^FAISS: out of memory$"):
        check(FaissBackend())
