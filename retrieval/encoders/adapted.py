"""Another encoder, with the region adapter and the scorer that `search train` made for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import Encoder, ImageFeatures, QueryFeatures, TextQueries, fingerprint_of
from retrieval.encoders.devices import gpu_of_torch
from retrieval.encoders.lite import LiteEncoder
from retrieval.encoders.runtime import once, open_session
from retrieval.images import Photo

if TYPE_CHECKING:
    from retrieval.encoders.adapter_torch import DeviceAdapter

ADAPTER = "adapter.onnx"


def adapted_fingerprint(encoder: Encoder, lite: LiteEncoder) -> str:
    """Of everything that the scorer for an encoder is trained on: the encoder, and the text tower of `lite`."""
    return fingerprint_of({"encoder": encoder.fingerprint, "words": lite.text_tower_fingerprint})


class AdaptedEncoder(TextQueries):
    """Embeddings come from the encoder. An adapter reduces its regions to those that the scorer reads. The token
    vectors of a text come from the text tower of `lite`, whatever embeds the text."""

    def __init__(self, folder: Path, config: dict[str, Any], encoder: Encoder, device: str = "cpu") -> None:
        """config: of the model directory. encoder: the one that the configuration names. device: `auto`, `cpu` or
        `cuda`: if the encoder resizes photos on a GPU, the adapter computes there, too.

        Raises `CrosslookError` when the encoder or the text tower of `lite` differ from those that the scorer was
        trained with."""
        lite = LiteEncoder(device=device)
        if config["towers"] != adapted_fingerprint(encoder, lite):
            raise CrosslookError(f"{folder} was trained with other weights of {encoder.name} or lite: train it again")
        self.name = str(folder)
        self.folder: Path | None = folder
        self.fingerprint = fingerprint_of({"towers": config["towers"], "scorer": config["sha256"]})
        self.dim = encoder.dim
        self.region_shape: tuple[int, int] = (config["regions"]["count"], config["regions"]["dim"])
        self.region_dtype: str = config["regions"]["dtype"]
        self.image_size = encoder.image_size
        self.takes_pixels = encoder.takes_pixels
        self.max_tokens = encoder.max_tokens
        self.batch_size = encoder.batch_size
        self._encoder = encoder
        self._lite = lite
        self._adapter_file = folder / ADAPTER
        self._device = device

    @once
    def _adapter(self) -> Any:
        return open_session(self._adapter_file)

    @once
    def _on_gpu(self) -> DeviceAdapter | None:
        gpu = gpu_of_torch(self._device) if self._encoder.takes_pixels else None
        if gpu is None or self.folder is None:
            return None
        from retrieval.encoders.adapter_torch import DeviceAdapter

        return DeviceAdapter(self.folder, gpu)

    def prepare(self, photo: Photo) -> NDArray[Any]:
        return self._encoder.prepare(photo)

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        features = self._encoder.encode_images(prepared)
        if self._on_gpu is not None:
            return ImageFeatures(features.embeddings, self._on_gpu(features.regions, features.embeddings))
        regions = []  # one image at a time, so that its regions do not depend on the number of images
        for cells, embedding in zip(features.regions, features.embeddings, strict=True):
            inputs = {"cells": cells[None].astype(np.float32), "whole": embedding[None]}
            regions.append(self._adapter.run(["tokens"], inputs)[0])
        return ImageFeatures(features.embeddings, np.concatenate(regions))

    def encode_texts(self, texts: Sequence[str]) -> QueryFeatures:
        features = self._encoder.encode_texts(texts)
        return replace(self._lite.encode_texts(texts), embeddings=features.embeddings, truncated=features.truncated)

    def token_spans(self, text: str) -> None:
        """None: the encoder may see a part of the image only."""
