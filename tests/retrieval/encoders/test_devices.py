"""Which device computes, without a GPU and without torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexes.errors import CrosslookError
from indexes.on_device.gpus import GPUS, may_have_gpu
from retrieval.encoders import load_encoder
from retrieval.encoders.devices import gpu_of_torch, torch_device
from retrieval.encoders.lite import LiteEncoder
from retrieval.fusion import own_scorer


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine with the device file of a GPU."""
    monkeypatch.setattr("indexes.on_device.gpus.GPUS", (tmp_path,))


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setattr("retrieval.encoders.devices.find_spec", lambda name: None)


def test_a_device_file_tells_that_there_may_be_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr("indexes.on_device.gpus.GPUS", (tmp_path / "nothing",))
    assert not may_have_gpu() and gpu_of_torch("auto") is None
    (tmp_path / "nothing").touch()
    assert may_have_gpu()


def test_without_torch_the_processor_computes(gpu, no_torch):
    assert gpu_of_torch("auto") is gpu_of_torch("cpu") is None
    encoder = LiteEncoder()
    assert not encoder.takes_pixels and encoder.batch_size == LiteEncoder(device="cpu").batch_size


@pytest.mark.parametrize("name", ["lite", "lite-untrained"])
def test_cuda_without_torch_is_one_clear_line(no_torch, name):
    with pytest.raises(CrosslookError, match=rf"^{name} needs torch on --device cuda: pip install 'crosslook\[gpu\]'"):
        load_encoder(name, "cuda")
    with pytest.raises(CrosslookError, match="needs torch on --device cuda"):
        own_scorer(load_encoder("lite", "cpu"), "cuda")


def test_a_device_file_that_any_gpu_has_under_wsl_tells_nothing():
    assert Path("/dev/dxg") not in GPUS and Path("/usr/lib/wsl/lib/libcuda.so.1") in GPUS


@pytest.mark.torch
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_has_its_number_so_that_all_threads_mean_the_same(gpu, monkeypatch, device):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert torch_device(device) == gpu_of_torch(device) == torch.device("cuda", 3)
    assert torch_device("cpu") == torch.device("cpu") and gpu_of_torch("cpu") is None


@pytest.mark.torch
def test_a_gpu_that_does_not_start_is_none_and_one_clear_line_where_it_is_asked_for(gpu, monkeypatch):
    import torch

    def fail() -> int:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", fail)
    assert gpu_of_torch("auto") is None
    with pytest.raises(
        CrosslookError, match=r"^torch cannot use the CUDA device \(CUDA error: all[^\n]*: use --device"
    ):
        torch_device("cuda")
