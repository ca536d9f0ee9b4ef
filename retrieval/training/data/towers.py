"""What is trained on: the outputs of frozen towers, of `lite` or of any open_clip model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.encoders.adapted import adapted_fingerprint
from retrieval.encoders.lite import MAPS, LiteEncoder
from retrieval.images import Photo
from retrieval.training.model.cells import CELLS, CHANNELS, Cells
from retrieval.training.model.heads import CLASSES

if TYPE_CHECKING:
    from retrieval.encoders.base import TextFeatures
    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.encoders.text_tower import TextTower


class Sight(Protocol):
    """What an image tower is given."""

    image_size: int

    def prepare(self, photo: Photo) -> NDArray[Any]:
        """The tower's input for one photo; safe to call from several threads."""
        ...

    def mirrored(self, prepared: NDArray[Any]) -> NDArray[Any]: ...


class Towers(Sight, Protocol):
    """cells: how many parts an image's map has, and how many components each. whole: components that tell of the whole
    image. texts: components of a text's embedding. words: reads the words one by one, as the scorer does, whatever
    embeds the texts."""

    fingerprint: str
    cells: tuple[int, int]
    whole: int
    texts: int
    words: TextTower

    def see(self, prepared: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """float [n, *cells] and float [n, whole]."""
        ...

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], TextFeatures]:
        """Embeddings [n, texts], unit norm, and the words as `words` encodes them."""
        ...


class LiteTowers:
    """The whole image is told of by the class logits."""

    cells = (CELLS, CHANNELS)
    whole = CLASSES

    def __init__(self, encoder: LiteEncoder) -> None:
        self.encoder = encoder
        self.fingerprint = encoder.tower_fingerprint
        self.image_size = encoder.image_size
        self.words = encoder.text_tower
        self.texts = encoder.text_tower.dim
        self._as_cells = Cells()

    def prepare(self, photo: Photo) -> NDArray[np.uint8]:
        return self.encoder.prepare(photo)

    def mirrored(self, prepared: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(prepared[:, ::-1])

    def see(self, prepared: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[Any], NDArray[Any]]:
        logits, *maps = self.encoder.maps(prepared, MAPS)
        with torch.inference_mode():
            cells = self._as_cells(torch.from_numpy(np.stack(prepared)), *(torch.from_numpy(each) for each in maps))
        return cells.numpy(), logits

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], TextFeatures]:
        found = self.words.encode(texts)
        return found.embeddings, found


class OpenClipSight:
    def __init__(self, encoder: OpenClipEncoder) -> None:
        self.encoder = encoder
        self.image_size = encoder.image_size

    def prepare(self, photo: Photo) -> NDArray[np.float32]:
        return self.encoder.prepare(photo)

    def mirrored(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(prepared[..., ::-1])


class OpenClipTowers(OpenClipSight):
    """The whole image is told of by its embedding."""

    def __init__(self, encoder: OpenClipEncoder) -> None:
        super().__init__(encoder)
        words = LiteEncoder(device="cpu")
        self.fingerprint = adapted_fingerprint(encoder, words)
        self.cells = encoder.token_shape
        self.whole = self.texts = encoder.dim
        self.words = words.text_tower

    def see(self, prepared: Sequence[NDArray[np.float32]]) -> tuple[NDArray[Any], NDArray[Any]]:
        found = self.encoder.encode_images(prepared)
        return found.tokens, found.embeddings

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], TextFeatures]:
        return self.encoder.encode_texts(texts).embeddings, self.words.encode(texts)
