"""The frozen towers whose outputs are trained on: those of `lite`, or of any open_clip model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.encoders.adapted import adapted_fingerprint
from retrieval.encoders.device_memory import FittingBatches, memory_for
from retrieval.encoders.devices import torch_device
from retrieval.encoders.lite import MAPS, TOWERS, LiteEncoder
from retrieval.encoders.runtime import once
from retrieval.images import Photo
from retrieval.training.data.cells import Cells
from retrieval.training.data.sizes import CELLS, CHANNELS, CLASSES, DIM

if TYPE_CHECKING:
    from retrieval.encoders.base import QueryFeatures
    from retrieval.encoders.lite_torch import DeviceTexts
    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.encoders.text_tower import TextTower


VIEWS_AT_ONCE = 512  # on a GPU


class ImageTransform(Protocol):
    """Turns a photo into the input of an image tower. image_size: side of the input in pixels."""

    image_size: int

    def prepare(self, photo: Photo) -> NDArray[Any]:
        """The tower's input for one photo. Safe to call from several threads."""
        ...

    def mirrored(self, prepared: NDArray[Any]) -> NDArray[Any]:
        """The same input, mirrored left to right."""
        ...


class Towers(ImageTransform, Protocol):
    """A pair of frozen towers.

    cell_shape: number of cells of an image, and components of each. global_dim: components that describe the whole
    image. text_dim: components of a text embedding. token_tower: gives the token vectors that the scorer reads,
    whichever tower embeds the texts. views_at_once: that a GPU encodes fastest together, of any images; 0 where the
    views of one image are encoded by themselves, so that its rounding depends on no other image."""

    fingerprint: str
    cell_shape: tuple[int, int]
    global_dim: int
    text_dim: int
    token_tower: TextTower
    views_at_once: int

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Cells, float [n, *cell_shape], and global features, float [n, global_dim]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], QueryFeatures]:
        """Embeddings, float32 [n, text_dim] of unit norm, and the features that `token_tower` gives."""
        ...


class LiteTowers:
    """The towers of `lite`: by ONNX Runtime on a processor, by torch on a GPU. The global features of an image are its
    class logits."""

    cell_shape = (CELLS, CHANNELS)
    global_dim = CLASSES

    def __init__(self, encoder: LiteEncoder, device: str = "cpu") -> None:
        """device: `cpu` or `cuda`."""
        self.encoder = encoder
        self.views_at_once = VIEWS_AT_ONCE if device == "cuda" else 0
        self._device = torch_device(device)
        self.fingerprint = encoder.tower_fingerprint
        self.image_size = encoder.image_size
        self.token_tower = encoder.text_tower
        self.text_dim = encoder.text_tower.dim
        self._as_cells = Cells()

    @once
    def on_device(self) -> LiteOnTorch:
        """The towers by torch, which a GPU uses."""
        return LiteOnTorch(self._device)

    def prepare(self, photo: Photo) -> NDArray[np.uint8]:
        return self.encoder.squashed(photo)

    def mirrored(self, prepared: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(prepared[:, ::-1])

    def encode_images(self, prepared: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.views_at_once:
            return self.on_device.encode_images(prepared)
        logits, *maps = self.encoder.maps(prepared, MAPS)
        with torch.inference_mode():
            cells = self._as_cells(torch.from_numpy(np.stack(prepared)), *(torch.from_numpy(item) for item in maps))
        return cells.numpy(), logits

    def encode_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], QueryFeatures]:
        features = self.token_tower.encode(texts, self.on_device.texts if self.views_at_once else None)
        return features.embeddings, features


class LiteOnTorch:
    """The towers of `lite` on a device of torch. Their outputs are those of ONNX Runtime up to rounding."""

    def __init__(self, device: torch.device) -> None:
        from retrieval.encoders.lite_torch_image import read_image_tower

        self._device = device
        self._fitting = FittingBatches(VIEWS_AT_ONCE, "an image")
        with memory_for("the weights"):
            self._tower = read_image_tower(TOWERS / "image.onnx").eval().to(device, memory_format=torch.channels_last)
        self._as_cells = Cells()

    @once
    def texts(self) -> DeviceTexts:
        from retrieval.encoders.lite_torch import DeviceTexts
        from retrieval.encoders.lite_torch_text import read_text_network

        return DeviceTexts(read_text_network(TOWERS / "text.onnx"), None, DIM, self._device)

    def encode_images(self, prepared: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """prepared: one or more, uint8 [224, 224, 3] each. Returns cells and logits, float16, as they are stored.

        Raises `CrosslookError` if a GPU lacks memory for a single image."""
        cells, logits = self._fitting(len(prepared), lambda part: self.compute(prepared[part]))
        return cells, logits

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def compute(self, prepared: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """As `encode_images`, all at once. Raises what torch raises."""
        pixels = torch.from_numpy(np.stack(prepared)).to(self._device)
        logits, *maps = self._tower(pixels.permute(0, 3, 1, 2).float())
        return self._as_cells(pixels, *maps).half().cpu().numpy(), logits.half().cpu().numpy()


class OpenClipTransform:
    """The input of an open_clip model's image tower, float32 [3, side, side]."""

    def __init__(self, encoder: OpenClipEncoder) -> None:
        self.encoder = encoder
        self.image_size = encoder.image_size

    def prepare(self, photo: Photo) -> NDArray[Any]:
        return self.encoder.to_input(photo)

    def mirrored(self, prepared: NDArray[Any]) -> NDArray[Any]:
        """prepared: float [3, h, w], or pixels, uint8 [h, w, 3]."""
        is_pixels = prepared.dtype == np.uint8
        return np.ascontiguousarray(prepared[:, ::-1] if is_pixels else prepared[..., ::-1])


class OpenClipTowers(OpenClipTransform):
    """The towers of an open_clip model. The global features of an image are its embedding."""

    def __init__(self, encoder: OpenClipEncoder) -> None:
        super().__init__(encoder)
        lite = LiteEncoder(device="cpu")
        self.fingerprint = adapted_fingerprint(encoder, lite)
        self.cell_shape = encoder.region_shape
        self.global_dim = self.text_dim = encoder.dim
        self.token_tower = lite.text_tower
        is_on_gpu = next(encoder.model.parameters()).device.type == "cuda"
        self.views_at_once = max(VIEWS_AT_ONCE, encoder.batch_size) if is_on_gpu else 0

    def prepare(self, photo: Photo) -> NDArray[Any]:
        """As the encoder takes photos that are indexed: on a GPU the pixels, uint8 [h, w, 3]."""
        return self.encoder.prepare(photo)

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        features = self.encoder.encode_images(prepared)
        return features.regions, features.embeddings

    def encode_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], QueryFeatures]:
        return self.encoder.encode_texts(texts).embeddings, self.token_tower.encode(texts)
