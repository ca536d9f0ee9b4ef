"""What is promised in float32 is computed in float32, also in a process that lets torch take TF32 for its own work."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.encoders.lite import LiteEncoder
from retrieval.encoders.preprocessing import Preprocessing

pytestmark = pytest.mark.torch
PHOTOS = [np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)] * 2


def resized():
    import torch

    from retrieval.encoders.on_device import DevicePreprocessing

    DevicePreprocessing(Preprocessing(32, "bicubic", False, (), ()), torch.device("cpu")).levels(PHOTOS)


def random_views():
    import torch

    from retrieval.training.data.device_views import device_views
    from retrieval.training.data.views import random_view

    pixels = torch.from_numpy(np.concatenate([photo.ravel() for photo in PHOTOS]))
    device_views(pixels, [(40, 60)] * 2, [random_view(np.random.default_rng(0))] * 2, 32)


def lite(monkeypatch):
    import torch

    monkeypatch.setattr(
        "retrieval.encoders.lite.gpu_of_torch", lambda device: None if device == "cpu" else torch.device("cpu")
    )
    return LiteEncoder()


@pytest.mark.parametrize("what", ["resizing", "random views", "texts of lite", "images of lite"])
def test_tf32_that_the_process_takes_is_not_taken(monkeypatch, what):
    import torch
    from torch.overrides import TorchFunctionMode

    encoder = lite(monkeypatch)
    precisions = []

    class Recorded(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if getattr(function, "__name__", "") in ("matmul", "__matmul__", "linear", "scaled_dot_product_attention"):
                precisions.append(torch.get_float32_matmul_precision())
            return function(*args, **(kwargs or {}))

    torch.set_float32_matmul_precision("high")
    try:
        with Recorded():
            if what == "resizing":
                resized()
            elif what == "random views":
                random_views()
            elif what == "texts of lite":
                encoder.encode_texts([f"dog {number}" for number in range(300)])
            else:
                encoder.encode_images(PHOTOS)
        assert precisions and set(precisions) == {"highest"}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "none"
