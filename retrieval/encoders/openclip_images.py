"""The image tower of an open_clip model on a device of torch: photos in, embeddings and regions out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.base import ImageFeatures, unit_norm
from retrieval.encoders.device_memory import FittingBatches, batch_on_gpu, memory_for
from retrieval.encoders.on_device import DevicePreprocessing, fetched, separate_stream
from retrieval.encoders.preprocessing import Preprocessing
from retrieval.encoders.torch_start import without_cudnn_attention

if TYPE_CHECKING:
    from torch import Tensor

GRID = 7  # regions are at most GRID x GRID cells
LARGEST_BATCH = 512


class ImageTower:
    """May be used by several threads at once: on a GPU each works on a stream of its own, so that while one batch is
    computed, another one is sent or fetched.

    normalized: whether the tower's last norm fits its map. model, example: the arguments."""

    def __init__(
        self, model: Any, device: Any, dtype: Any, preprocessing: Preprocessing | None, example: NDArray[np.float32]
    ) -> None:
        """model: open_clip's, on the device. device: with its number. dtype: of torch, in which the tower computes:
        float32; bfloat16, for which its weights are copied; or float16. preprocessing: for photos that the device
        resizes. example: an input of the model, float32 [3, side, side].

        Raises `CrosslookError` if a GPU lacks memory."""
        import torch

        without_cudnn_attention(device)
        self._device = device
        self.example = example
        self._fitting = FittingBatches(LARGEST_BATCH, "an image")
        self._preprocessing = None if preprocessing is None else DevicePreprocessing(preprocessing, device)
        self.model = model
        self._model, self._weights, self._computing = model, torch.float32, torch.float32
        self.normalized = self._fits_its_norm()
        self._computing = dtype
        if dtype == torch.bfloat16:  # float16 has too small a range for all of a model
            with memory_for("the weights"):
                self._model = lowered(model, dtype)
            self._weights, self._computing = dtype, torch.float32
            try:
                self.encode([example])
            except RuntimeError:  # a part of this model insists on float32
                self._model, self._weights, self._computing = model, torch.float32, dtype

    def _fits_its_norm(self) -> bool:
        self.normalized = True
        try:
            self.encode([self.example])
        except RuntimeError:
            return False
        return True

    def encode(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        """prepared: one or more photos, uint8 [h, w, 3] each, or inputs of the model, float32 [3, side, side] each. If
        a GPU lacks memory, fewer are encoded at once, now and later.

        Raises `CrosslookError` if it lacks memory for a single one."""
        return ImageFeatures(*self._fitting(len(prepared), lambda part: self.compute(prepared[part])))

    def compute(self, prepared: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """Embeddings and regions, all at once. Raises what torch raises."""
        import torch

        with separate_stream(self._device), torch.inference_mode():
            if prepared[0].dtype == np.uint8:
                assert self._preprocessing is not None
                pixels = self._preprocessing(prepared)
            else:
                pixels = torch.from_numpy(np.stack(prepared)).to(self._device)
            embeddings, regions = fetched(*self._outputs(pixels.to(self._weights, memory_format=torch.channels_last)))
        return unit_norm(embeddings), regions

    def _outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings, float32 [n, dim], and regions, float16 [n, regions, region_dim]."""
        import torch

        with torch.inference_mode(), autocast(self._device, self._computing):
            outputs = self._model.forward_intermediates(
                image=pixels, image_indices=1, normalize_intermediates=self.normalized
            )
            cells = outputs["image_intermediates"][-1].float()
            grid = grid_of(cells.shape[2], cells.shape[3])
            regions = torch.nn.functional.adaptive_avg_pool2d(cells, grid).flatten(2).transpose(1, 2)
        return outputs["image_features"].float(), regions.to(torch.float16)

    def batch_size_on_gpu(self) -> int:
        """How many images are encoded fastest together."""
        return batch_on_gpu(self._device, lambda count: self.encode([self.example] * count), LARGEST_BATCH)


def lowered(model: Any, dtype: Any) -> Any:
    """The same model with an image tower whose weights have another dtype of torch. All else is shared with `model`.
    Batch norms stay float32: their variances need more digits than 16 bits have. Each tensor is narrowed by itself, so
    that no second copy in float32 takes memory."""
    import torch

    copies: dict[int, Any] = {}  # of the tensors, by which `deepcopy` finds what stands for a part
    for module in model.visual.modules():
        is_norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            kind = tensor.dtype if is_norm or not tensor.is_floating_point() else dtype
            copied = tensor.detach().to(kind, copy=True)
            is_weight = isinstance(tensor, torch.nn.Parameter)
            weight = torch.nn.Parameter(copied, tensor.requires_grad) if is_weight else copied
            copies.setdefault(id(tensor), weight)
    others = [module for name, module in model.named_children() if name != "visual"]
    shared = [*others, *model.parameters(recurse=False), *model.buffers(recurse=False)]
    return copy.deepcopy(model, copies | {id(part): part for part in shared})


def autocast(device: Any, dtype: Any) -> Any:
    """A context for inference in which float32 weights compute in this dtype of torch; it changes nothing for float32.
    Each weight is used once, so no copies of them are kept."""
    import torch

    is_half = dtype != torch.float32
    dtype = dtype if is_half else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=is_half, cache_enabled=False)


def grid_of(rows: int, columns: int) -> tuple[int, int]:
    """The grid of regions for a map of rows x columns cells."""
    return min(GRID, rows), min(GRID, columns)
