"""`lite` on a device of torch: resizing, towers and heads of a batch in one pass, from pixels to what is stored.

The weights are those of the ONNX files, so the fingerprint is the same, and one collection may be extended on either.
All is computed in float32, except that a GPU's convolutions round their inputs to 10 bits (TF32, the default of torch).
Against ONNX Runtime on a processor, over 300 photos and 100 captions, the least cosine of embeddings is 1 - 1e-7 in
float32 and 0.999995 in TF32, which changes similarities by at most 5e-4. Towers in float16 were measured and not taken:
0.99998, and similarities change by 1.3e-3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import normalize

from indexes.on_device.precision import full_float32
from retrieval.encoders.base import ImageFeatures
from retrieval.encoders.device_memory import FittingBatches, batch_on_gpu, memory_for
from retrieval.encoders.lite_torch_image import ImageTower, read_image_tower
from retrieval.encoders.lite_torch_text import DIM, TextNetwork, read_text_network
from retrieval.encoders.on_device import DevicePreprocessing, fetched, separate_stream
from retrieval.encoders.preprocessing import Preprocessing
from retrieval.encoders.runtime import once
from retrieval.encoders.torch_start import without_cudnn_attention
from retrieval.training.stored_model import StoredImageHead, StoredTextHead, read_model

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.fitting.embedder import Embedder
    from retrieval.training.model.model import Model

IMAGES_AT_ONCE = 128  # whose largest maps take two gigabytes
LARGEST_BATCH = 512
TEXTS_AT_ONCE = 512
EXAMPLE = (480, 640)  # height and width of a photo whose memory is measured


class ImageNetwork(nn.Module):
    """Tower and head: levels of a batch -> stored embeddings and regions. Without a head, the embedding is ConSE and
    the regions are the cells of the last map, in float16."""

    def __init__(self, tower: ImageTower, head: StoredImageHead | None, class_embeddings: Tensor) -> None:
        """class_embeddings: float [1000, 384], which a head does not use."""
        super().__init__()
        self.tower, self.head = tower, head
        self.register_buffer("class_embeddings", class_embeddings)

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """levels: float [n, 3, 224, 224], whole numbers from 0 to 255. Returns float32 [n, dim], unit norm, and
        [n, 49, region_dim], int8 with a head."""
        logits, *maps = self.tower(levels)
        if self.head is not None:
            embeddings, regions = self.head(levels.permute(0, 2, 3, 1), logits, *maps)
            return embeddings, regions
        regions = maps[-1].flatten(2).transpose(1, 2).half()
        return normalize(logits.softmax(-1) @ self.class_embeddings, dim=-1), regions


class DeviceTexts:
    """Text tower and head on a device, a `TokenEncoder`. Computes in float32, as the processor does."""

    at_once = TEXTS_AT_ONCE

    def __init__(self, network: TextNetwork, head: StoredTextHead | None, dim: int, device: Any) -> None:
        """dim: length of the embeddings. Raises `CrosslookError` if a GPU lacks memory."""
        without_cudnn_attention(device)
        self.dim = dim
        self._device = device
        self._fitting = FittingBatches(TEXTS_AT_ONCE, "a text")
        with memory_for("the weights"):
            self._network, self._head = network.to(device), None if head is None else head.eval().to(device)

    def encode(self, ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
        """See `TokenEncoder`. Raises `CrosslookError` if a GPU lacks memory for a single text."""
        embeddings, tokens = self._fitting(len(ids), lambda part: self.compute(ids[part], mask[part]))
        return embeddings, tokens

    def compute(self, ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
        """As `encode`, all at once. Raises what torch raises."""
        with torch.inference_mode(), full_float32():
            is_token = torch.from_numpy(mask).to(self._device)
            embeddings, tokens = self._network(torch.from_numpy(ids).to(self._device), is_token)
            if self._head is not None:
                embeddings = self._head(embeddings, tokens, is_token)
            embeddings, tokens = fetched(embeddings, tokens)
        return embeddings, tokens


class LiteOnDevice:
    """What `LiteEncoder` computes, on a device of torch. May be called from several threads."""

    def __init__(
        self,
        towers: Path,
        heads: Path | None,
        class_embeddings: NDArray[np.float32],
        side: int,
        device: Any,
    ) -> None:
        """towers, heads: directories. side: of the model's input, in pixels."""
        self._towers, self._class_embeddings, self._device = towers, class_embeddings, device
        self._trained: tuple[Model, Embedder] | None = None
        if heads is not None:
            model, embedder = read_model(heads)
            assert embedder is not None, "only a scorer for another encoder has none"
            self._trained = model, embedder
        self._fitting = FittingBatches(LARGEST_BATCH, "an image")
        self._preprocessing = DevicePreprocessing(Preprocessing(side, "bicubic", True, (), ()), device)

    @once
    def _images(self) -> ImageNetwork:
        head = None if self._trained is None else StoredImageHead(*self._trained)
        tower, class_embeddings = (
            read_image_tower(self._towers / "image.onnx"),
            torch.from_numpy(self._class_embeddings),
        )
        images = ImageNetwork(tower, head, class_embeddings).eval()
        with memory_for("the weights"):
            return images.to(self._device, memory_format=torch.channels_last)

    def load_images(self) -> None:
        """Loads the image tower now. Raises `CrosslookError` if a GPU lacks memory for it."""
        _ = self._images

    def batch_size(self, largest: int) -> int:
        """How many images are encoded fastest together. Raises `CrosslookError` if a GPU lacks memory for one."""
        photo = np.zeros((*EXAMPLE, 3), np.uint8)
        return batch_on_gpu(self._device, lambda count: self.encode_images([photo] * count), largest)

    @once
    def texts(self) -> DeviceTexts:
        """The text tower, which is loaded when it is first used."""
        network = read_text_network(self._towers / "text.onnx")
        if self._trained is None:
            return DeviceTexts(network, None, DIM, self._device)
        return DeviceTexts(network, StoredTextHead(*self._trained), self._trained[1].dim, self._device)

    def encode_images(self, photos: Sequence[NDArray[np.uint8]]) -> ImageFeatures:
        """photos: one or more, uint8 [height, width, 3] each, of any sizes.

        Raises `CrosslookError` if a GPU lacks memory for a single one."""
        return ImageFeatures(*self._fitting(len(photos), lambda part: self.compute(photos[part])))

    def compute(self, photos: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[Any], ...]:
        """Embeddings and regions, all at once. Raises what torch raises."""
        with separate_stream(self._device), torch.inference_mode(), full_float32():
            batches = self._preprocessing.levels(photos).split(IMAGES_AT_ONCE)
            embeddings, regions = zip(*(self._images(levels) for levels in batches), strict=True)
            return tuple(fetched(torch.cat(embeddings), torch.cat(regions)))
