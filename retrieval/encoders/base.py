"""What a dual encoder is: images, texts and queries in, embeddings and token vectors out."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.images import Photo
from retrieval.query import Query


@dataclass(frozen=True)
class ImageFeatures:
    """embeddings: float32 [n, dim], unit norm. regions: [n, regions, region_dim], in the dtype that is stored."""

    embeddings: NDArray[np.float32]
    regions: NDArray[Any]


@dataclass(frozen=True)
class QueryFeatures:
    """What is known of n queries, or of n texts, each of which is a query by itself.

    embeddings: float32 [n, dim], unit norm. tokens: float32 [n, tokens, token_dim], a vector for each token of the
    text, zero where padded. mask: bool [n, tokens], False where padded, which is at the end. truncated: bool [n], True
    where the text was longer than the encoder reads."""

    embeddings: NDArray[np.float32]
    tokens: NDArray[np.float32]
    mask: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    def of(self, row: int) -> QueryFeatures:
        """One query, without padding."""
        length = int(self.mask[row].sum())
        rows = slice(row, row + 1)
        return QueryFeatures(
            self.embeddings[rows], self.tokens[rows, :length], self.mask[rows, :length], self.truncated[rows]
        )


class Encoder(Protocol):
    """A dual encoder: images and queries become vectors of one space, compared by inner product. Every method may be
    called from several threads. What an input becomes does not depend on its neighbours in a call, except for the
    rounding of floating point numbers.

    name: by which `load_encoder` finds it, and which a collection remembers. fingerprint: of everything that an
    embedding, a region or a token depends on (`fingerprint_of`). dim: length of an embedding. region_shape: of the
    regions of one image, (regions, region_dim); region_dtype: as they are stored. image_size: side in pixels that
    `prepare` needs. takes_pixels: whether `prepare` returns the photo's pixels as they are, uint8 [h, w, 3], since
    `encode_images` resizes them; then other processes can decode for this encoder. max_tokens: of a text, BOS and EOS
    included; longer texts are cut. batch_size: images that are encoded fastest together. folder: the model directory
    that may hold a scorer, or None."""

    name: str
    fingerprint: str
    dim: int
    region_shape: tuple[int, int]
    region_dtype: str
    image_size: int
    takes_pixels: bool
    max_tokens: int
    batch_size: int
    folder: Path | None

    def prepare(self, photo: Photo) -> NDArray[Any]:
        """The model's input for one photo."""
        ...

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        """prepared: one or more images, as `prepare` returns them."""
        ...

    def encode_queries(self, queries: Sequence[Query]) -> QueryFeatures:
        """Raises `CrosslookError` for a query that the encoder cannot embed, such as one by image."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> QueryFeatures:
        """The same as `encode_queries` of queries of one text each."""
        ...

    def token_spans(self, text: str) -> list[tuple[int, int]] | None:
        """Start and end in the text of each token that `encode_texts` gives a vector, equal for those that mark the
        beginning and the end. None if relevance cannot be shown on an image: the encoder does not know the spans, or
        its regions are not a square grid over the entire image, row by row."""
        ...


class TextQueries(ABC):
    """`encode_queries` of an encoder that embeds queries of one text only, by its `encode_texts`."""

    name: str

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> QueryFeatures: ...

    def encode_queries(self, queries: Sequence[Query]) -> QueryFeatures:
        return self.encode_texts([query.only_text(f"the model {self.name}") for query in queries])


def fingerprint_of(settings: dict[str, Any]) -> str:
    """16 hexadecimal digits over everything that an embedding, a region or a token depends on."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def unit_norm(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """float32 [n, dim], each row divided by its Euclidean norm; rows of zeros stay zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
