"""The frozen towers whose outputs are trained on: those of `lite`, or of any open_clip model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.encoders.adapted import adapted_fingerprint
from retrieval.encoders.lite import MAPS, LiteEncoder
from retrieval.images import Photo
from retrieval.training.data.cells import Cells
from retrieval.training.data.sizes import CELLS, CHANNELS, CLASSES

if TYPE_CHECKING:
    from retrieval.encoders.base import QueryFeatures
    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.encoders.text_tower import TextTower


class ImageTransform(Protocol):
    """DriveHistory a photo into the input of an image tower. image_size: side of the input in pixels."""

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
    whichever tower embeds the texts."""

    fingerprint: str
    cell_shape: tuple[int, int]
    global_dim: int
    text_dim: int
    token_tower: TextTower

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Cells, float [n, *cell_shape], and global features, float [n, global_dim]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], QueryFeatures]:
        """Embeddings, float32 [n, text_dim] of unit norm, and the features that `token_tower` gives."""
        ...


class LiteTowers:
    """The towers of `lite`. The global features of an image are its class logits."""

    cell_shape = (CELLS, CHANNELS)
    global_dim = CLASSES

    def __init__(self, encoder: LiteEncoder) -> None:
        self.encoder = encoder
        self.fingerprint = encoder.tower_fingerprint
        self.image_size = encoder.image_size
        self.token_tower = encoder.text_tower
        self.text_dim = encoder.text_tower.dim
        self._as_cells = Cells()

    def prepare(self, photo: Photo) -> NDArray[np.uint8]:
        return self.encoder.prepare(photo)

    def mirrored(self, prepared: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(prepared[:, ::-1])

    def encode_images(self, prepared: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[Any], NDArray[Any]]:
        logits, *maps = self.encoder.maps(prepared, MAPS)
        with torch.inference_mode():
            cells = self._as_cells(torch.from_numpy(np.stack(prepared)), *(torch.from_numpy(item) for item in maps))
        return cells.numpy(), logits

    def encode_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], QueryFeatures]:
        features = self.token_tower.encode(texts)
        return features.embeddings, features


class OpenClipTransform:
    """The input of an open_clip model's image tower."""

    def __init__(self, encoder: OpenClipEncoder) -> None:
        self.encoder = encoder
        self.image_size = encoder.image_size

    def prepare(self, photo: Photo) -> NDArray[np.float32]:
        return self.encoder.prepare(photo)

    def mirrored(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(prepared[..., ::-1])


class OpenClipTowers(OpenClipTransform):
    """The towers of an open_clip model. The global features of an image are its embedding."""

    def __init__(self, encoder: OpenClipEncoder) -> None:
        super().__init__(encoder)
        lite = LiteEncoder(device="cpu")
        self.fingerprint = adapted_fingerprint(encoder, lite)
        self.cell_shape = encoder.region_shape
        self.global_dim = self.text_dim = encoder.dim
        self.token_tower = lite.text_tower

    def encode_images(self, prepared: Sequence[NDArray[np.float32]]) -> tuple[NDArray[Any], NDArray[Any]]:
        features = self.encoder.encode_images(prepared)
        return features.regions, features.embeddings

    def encode_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], QueryFeatures]:
        return self.encoder.encode_texts(texts).embeddings, self.token_tower.encode(texts)
