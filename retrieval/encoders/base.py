"""What a dual encoder is: images and texts in, embeddings and tokens out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.images import Photo


@dataclass(frozen=True)
class ImageFeatures:
    """embeddings: float32 [n, dim], unit norm. tokens: [n, regions, token_dim], in the dtype that is stored."""

    embeddings: NDArray[np.float32]
    tokens: NDArray[Any]


@dataclass(frozen=True)
class TextFeatures:
    """embeddings: float32 [n, dim], unit norm. tokens: float32 [n, words, token_dim]. mask: bool [n, words], True where
    there is a word. truncated: bool [n], True where the text was longer than the encoder reads."""

    embeddings: NDArray[np.float32]
    tokens: NDArray[np.float32]
    mask: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    def of(self, row: int) -> TextFeatures:
        """One text, without padding."""
        words = int(self.mask[row].sum())
        one = slice(row, row + 1)
        return TextFeatures(self.embeddings[one], self.tokens[one, :words], self.mask[one, :words], self.truncated[one])


class Encoder(Protocol):
    """A dual encoder. `image_size` is the side in pixels that `prepare` needs; `dim` the length of an embedding;
    `token_shape` and `token_dtype` those of the tokens of one image; `folder` the model directory that may hold a
    scorer, None where there is none."""

    name: str
    fingerprint: str
    dim: int
    token_shape: tuple[int, int]
    token_dtype: str
    image_size: int
    max_words: int
    batch_size: int
    folder: Path | None

    def prepare(self, photo: Photo) -> NDArray[Any]:
        """The model's input for one photo; safe to call from several threads."""
        ...

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures: ...

    def encode_texts(self, texts: Sequence[str]) -> TextFeatures: ...


def fingerprint_of(settings: dict[str, Any]) -> str:
    """16 hexadecimal digits over everything that an embedding or a token depends on."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def unit_norm(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """float32 [n, dim], each row divided by its length; a row of zeros stays one."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
