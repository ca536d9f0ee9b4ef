"""What happens beside the imports while a device starts."""

from __future__ import annotations

import threading

import pytest

from retrieval.encoders import torch_start

pytestmark = pytest.mark.torch


@pytest.fixture
def cuda(monkeypatch):
    """Devices that were started in place of a CUDA device, which torch is made to find; the second is current."""
    import torch

    devices: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_start, "start_device", devices.append)
    return devices


def test_a_device_is_started_beside_the_block_and_ready_after_it(cuda, monkeypatch):
    entered = threading.Event()
    monkeypatch.setattr(torch_start, "start_device", lambda device: entered.wait(20) and cuda.append(device))
    with torch_start.starting("auto"):
        assert cuda == []
        entered.set()
    assert cuda == ["cuda:1"]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_block_that_fails_waits_for_the_device(cuda, device):
    with pytest.raises(ValueError, match="no such model"), torch_start.starting(device):
        raise ValueError("no such model")
    assert cuda == ["cuda:1"] and "starting the device" not in [thread.name for thread in threading.enumerate()]


def test_the_processor_needs_no_start(cuda):
    with torch_start.starting("cpu"):
        pass
    assert cuda == []


def test_starting_computes_and_an_error_is_left_to_the_first_use(monkeypatch):
    import torch

    shapes = []
    multiplied = torch.Tensor.__matmul__

    def noted(left, right):
        shapes.append((*left.shape, *right.shape))
        return multiplied(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", noted)
    torch_start.start_device("cpu")
    assert shapes == [(1, 4, 8, 1, 8, 4)]
    torch_start.start_device("no such device")


def test_modules_made_without_random_weights_draw_none():
    import torch

    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch_start.without_random_weights():
        torch.nn.Linear(4, 4)
        torch.nn.Embedding(4, 4)
        torch.nn.MultiheadAttention(4, 2)
        torch.nn.init.trunc_normal_(torch.empty(4, 4), std=0.02)
        norm = torch.nn.LayerNorm(4)
        assert torch.equal(norm.weight, torch.ones(4))  # constants are set
    assert torch.equal(torch.get_rng_state(), before)
    torch.nn.Linear(4, 4)
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["file", "folder", "missing"])
def test_reading_ahead_changes_nothing(tmp_path, name):
    (tmp_path / "file").write_bytes(b"weights")
    (tmp_path / "folder").mkdir()
    torch_start.read_ahead(tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"weights"


@pytest.mark.parametrize(("device", "expected"), [("cpu", []), ("cuda", [False])])
def test_attention_on_a_gpu_is_not_planned_by_cudnn(monkeypatch, device, expected):
    import torch

    switched: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", switched.append)
    torch_start.without_cudnn_attention(device)
    torch_start.without_cudnn_attention(torch.device(device))
    assert switched == expected * 2


def test_training_on_a_gpu_computes_attention_without_cudnn(monkeypatch):
    import torch

    from retrieval.training.parallel import processes

    switched: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", switched.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    with processes("cpu"):
        assert switched == []
    with processes("cuda"):
        assert switched == [False]
