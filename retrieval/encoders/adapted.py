"""Another encoder with a scorer that `search train` made for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import Encoder, ImageFeatures, TextFeatures, fingerprint_of
from retrieval.encoders.lite import LiteEncoder
from retrieval.encoders.runtime import once, open_session
from retrieval.images import Photo

ADAPTER = "adapter.onnx"


def adapted_fingerprint(encoder: Encoder, words: LiteEncoder) -> str:
    """Of all that the scorer for an encoder is trained on."""
    return fingerprint_of({"encoder": encoder.fingerprint, "words": words.words_fingerprint})


class AdaptedEncoder:
    """Embeddings are the encoder's own. Its region tokens are made small for the scorer by an adapter, and its word
    tokens are those of `lite`, which the scorer reads whatever embeds the text."""

    def __init__(self, folder: Path, config: dict[str, Any], encoder: Encoder) -> None:
        """config: of the model directory. encoder: the one that it names. Raises `CrosslookError` when it has other
        weights, or `lite` other words, than the scorer was trained with."""
        words = LiteEncoder(device="cpu")
        if config["towers"] != adapted_fingerprint(encoder, words):
            raise CrosslookError(f"{folder} was trained with other weights of {encoder.name} or lite: train it again")
        self.name = str(folder)
        self.folder: Path | None = folder
        self.fingerprint = fingerprint_of({"towers": config["towers"], "scorer": config["sha256"]})
        self.dim = encoder.dim
        self.token_shape: tuple[int, int] = (config["regions"]["count"], config["regions"]["dim"])
        self.token_dtype: str = config["regions"]["dtype"]
        self.image_size = encoder.image_size
        self.max_words = encoder.max_words
        self.batch_size = encoder.batch_size
        self._encoder = encoder
        self._words = words.text_tower
        self._adapter_file = folder / ADAPTER

    @once
    def _adapter(self) -> Any:
        return open_session(self._adapter_file)

    def prepare(self, photo: Photo) -> NDArray[Any]:
        return self._encoder.prepare(photo)

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        found = self._encoder.encode_images(prepared)
        tokens = []  # one by one, so that they do not depend on how many images there are
        for cells, whole in zip(found.tokens, found.embeddings, strict=True):
            inputs = {"cells": cells[None].astype(np.float32), "whole": whole[None]}
            tokens.append(self._adapter.run(["tokens"], inputs)[0])
        return ImageFeatures(found.embeddings, np.concatenate(tokens))

    def encode_texts(self, texts: Sequence[str]) -> TextFeatures:
        found = self._encoder.encode_texts(texts)
        return replace(self._words.encode(texts), embeddings=found.embeddings, truncated=found.truncated)
