"""`lite`, the embedded encoder: two EfficientNet-Lites and all-MiniLM-L6-v2 on ONNX Runtime, without torch.

The towers alone embed an image as the mean of the text embeddings of the 1000 ImageNet classes, weighted by the
classifier's softmax (ConSE: Norouzi et al. 2013, "Zero-Shot Learning by Convex Combination of Semantic Embeddings").
Heads, trained by `search train`, add a learned residual to the embeddings of both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import ImageFeatures, TextFeatures, fingerprint_of, unit_norm
from retrieval.encoders.runtime import check_device, once, open_session
from retrieval.encoders.text_tower import TextTower
from retrieval.images import Photo

TOWERS = Path(__file__).parents[1] / "weights" / "lite"
HEADS = Path(__file__).parents[1] / "weights" / "lite-heads"
HEADS_OF_LITE = "heads and scorer of lite"  # the kind of model that a directory says it is
MAPS = ("logits", "stride8", "stride16", "stride32")
REGION_MAP = "stride32"


class LiteEncoder:
    """Towers from their directory, and heads from another if there are any; each file is loaded when first used.

    `maps` and `text_tower` reach what the heads read, for training them."""

    batch_size = 16

    def __init__(
        self, name: str = "lite", towers: Path = TOWERS, heads: Path | None = None, device: str = "auto"
    ) -> None:
        check_device(device)
        self.name = name
        self.folder = heads
        self._towers = towers
        self._heads = heads
        self._device = device
        config = json.loads((towers / "config.json").read_text())
        self.tower_fingerprint = fingerprint_of(config)
        of_words = [config["sha256"][name] for name in ("text.onnx", "tokenizer.json")]
        self.words_fingerprint = fingerprint_of({"files": of_words, "max_words": config["max_words"]})
        self.fingerprint = self.tower_fingerprint
        shape: dict[str, Any] = config
        if heads is not None:
            shape = json.loads((heads / "config.json").read_text())
            if shape["towers"] != self.tower_fingerprint:
                raise CrosslookError(f"{heads} belongs to another version of lite: train it again with `search train`")
            self.fingerprint = fingerprint_of({"towers": config, "heads": shape["sha256"]})
        self.dim: int = shape["dim"]
        self.token_shape: tuple[int, int] = (shape["regions"]["count"], shape["regions"]["dim"])
        self.token_dtype: str = shape["regions"]["dtype"]
        self.image_size: int = config["image_size"]
        self.max_words: int = config["max_words"]
        self.text_tower = TextTower(towers / "text.onnx", towers / "tokenizer.json", config["max_words"])

    @once
    def _image(self) -> Any:
        return open_session(self._towers / "image.onnx", self._device)

    @once
    def _image_head(self) -> Any:
        assert self._heads is not None
        return open_session(self._heads / "image_head.onnx", self._device)

    @once
    def _text_head(self) -> Any:
        assert self._heads is not None
        return open_session(self._heads / "text_head.onnx")

    @once
    def class_embeddings(self) -> NDArray[np.float32]:
        """What the ImageNet classes mean, float32 [1000, 384], unit norm."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        weights = self._towers / "model.safetensors"
        try:
            return load_file(weights)["class_embeddings"]
        except (SafetensorError, KeyError) as error:
            raise CrosslookError(f"cannot read {weights}: it is damaged (reinstall crosslook)") from error

    def prepare(self, photo: Photo) -> NDArray[np.uint8]:
        """uint8 [224, 224, 3]: the whole picture, squashed to a square, so that nothing at its edges is lost."""
        from PIL import Image

        side = (self.image_size, self.image_size)
        return np.asarray(Image.fromarray(photo.pixels).resize(side, Image.Resampling.BICUBIC))

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        maps = dict(zip(MAPS, self.maps(prepared, MAPS), strict=True))
        if self._heads is not None:
            return self._headed(prepared, maps)
        regions, (count, channels) = maps[REGION_MAP], self.token_shape
        tokens = regions.reshape(len(regions), channels, count).transpose(0, 2, 1)
        return ImageFeatures(self._conse(maps["logits"]), np.ascontiguousarray(tokens, dtype=self.token_dtype))

    def _conse(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        # Not a matrix product, whose rounding may depend on the number of images.
        return unit_norm(np.einsum("nc,cd->nd", weights, self.class_embeddings, optimize=False))

    def _headed(self, prepared: Sequence[NDArray[Any]], maps: dict[str, NDArray[np.float32]]) -> ImageFeatures:
        """Always `batch_size` images at once, so that an embedding does not depend on how many others there are."""
        inputs = {"pixels": np.stack(prepared), **maps}
        found = []
        for low in range(0, len(prepared), self.batch_size):
            some = {name: values[low : low + self.batch_size] for name, values in inputs.items()}
            there = len(some["pixels"])
            missing = self.batch_size - there
            full = {name: np.pad(each, [(0, missing)] + [(0, 0)] * (each.ndim - 1)) for name, each in some.items()}
            found.append([each[:there] for each in self._image_head.run(["embedding", "tokens"], full)])
        embeddings, tokens = (np.concatenate(each) for each in zip(*found, strict=True))
        return ImageFeatures(embeddings, tokens)

    def maps(self, prepared: Sequence[NDArray[Any]], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """Outputs of the image tower by name: `logits` [n, 1000], `stride8` [n, 48, 28, 28], `stride16`
        [n, 120, 14, 14], `stride32` [n, 672, 7, 7], all float32."""
        return list(self._image.run(list(names), {"pixels": np.stack(prepared)}))

    def encode_texts(self, texts: Sequence[str]) -> TextFeatures:
        found = self.text_tower.encode(texts)
        if self._heads is None or not len(texts):
            return found
        inputs = {"tower": found.embeddings, "words": found.tokens, "mask": found.mask}
        return TextFeatures(self._text_head.run(["embedding"], inputs)[0], found.tokens, found.mask, found.truncated)
