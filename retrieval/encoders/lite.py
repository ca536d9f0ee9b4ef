"""`lite`, the embedded encoder: EfficientNet-Lite0 and all-MiniLM-L6-v2 on ONNX Runtime, without torch.

An image's embedding is the mean of the text embeddings of the 1000 ImageNet class names, weighted by the classifier's
softmax (ConSE: Norouzi et al. 2013, "Zero-Shot Learning by Convex Combination of Semantic Embeddings")."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.base import ImageFeatures, TextFeatures, fingerprint_of, unit_norm
from retrieval.encoders.runtime import check_device, open_session
from retrieval.encoders.text_tower import TextTower
from retrieval.images import Photo

WEIGHTS = Path(__file__).parents[1] / "weights" / "lite"


class LiteEncoder:
    """The model directory `folder` (the embedded one by default); towers load when first used.

    `maps` reaches the feature maps of the other depths, for training heads and scorers on them."""

    name = "lite"
    batch_size = 16

    def __init__(self, folder: Path = WEIGHTS, device: str = "auto") -> None:
        check_device(device)
        self._folder = folder
        self._device = device
        config = json.loads((folder / "config.json").read_text())
        self.fingerprint = fingerprint_of(config)
        self.dim: int = config["dim"]
        self.image_size: int = config["image_size"]
        self.max_words: int = config["max_words"]
        self.token_shape: tuple[int, int] = (config["regions"]["count"], config["regions"]["dim"])
        self.token_dtype: str = config["regions"]["dtype"]
        self._region_map: str = config["regions"]["map"]
        self._text = TextTower(folder / "text.onnx", folder / "tokenizer.json", config["max_words"])

    @cached_property
    def _image(self) -> Any:
        return open_session(self._folder / "image.onnx", self._device)

    @cached_property
    def _class_embeddings(self) -> NDArray[np.float32]:
        from safetensors.numpy import load_file

        return load_file(self._folder / "model.safetensors")["class_embeddings"]

    def prepare(self, photo: Photo) -> NDArray[np.uint8]:
        """uint8 [224, 224, 3]: the whole picture, squashed to a square, so that nothing at its edges is lost."""
        from PIL import Image

        side = (self.image_size, self.image_size)
        return np.asarray(Image.fromarray(photo.pixels).resize(side, Image.Resampling.BICUBIC))

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        logits, regions = self.maps(prepared, ["logits", self._region_map])
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        embeddings = unit_norm(np.einsum("nc,cd->nd", weights, self._class_embeddings, optimize=False))
        count, channels = self.token_shape
        tokens = regions.reshape(len(regions), channels, count).transpose(0, 2, 1)
        return ImageFeatures(embeddings, np.ascontiguousarray(tokens, dtype=self.token_dtype))

    def maps(self, prepared: Sequence[NDArray[Any]], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """Outputs of the image tower by name: `logits` [n, 1000], `stride8` [n, 40, 28, 28], `stride16`
        [n, 112, 14, 14], `stride32` [n, 320, 7, 7], all float32."""
        return list(self._image.run(list(names), {"pixels": np.stack(prepared)}))

    def encode_texts(self, texts: Sequence[str]) -> TextFeatures:
        return self._text.encode(texts)
