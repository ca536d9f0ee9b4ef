"""`lite`, the embedded encoder: two EfficientNet-Lites and all-MiniLM-L6-v2 on ONNX Runtime, without torch.

The towers alone embed an image as the mean of the text embeddings of the 1000 ImageNet classes, weighted by the
classifier's softmax (ConSE: Norouzi et al. 2013, "Zero-Shot Learning by Convex Combination of Semantic Embeddings").
Heads, trained by `search train`, add a learned residual to the embeddings of both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import ImageFeatures, QueryFeatures, TextQueries, fingerprint_of, unit_norm
from retrieval.encoders.runtime import check_device, once, open_session
from retrieval.encoders.text_tower import TextTower
from retrieval.images import Photo

TOWERS = Path(__file__).parents[1] / "weights" / "lite"
HEADS = Path(__file__).parents[1] / "weights" / "lite-heads"
HEADS_OF_LITE = "heads and scorer of lite"  # the `kind` in the configuration of such a model directory
MAPS = ("logits", "stride8", "stride16", "stride32")
REGION_MAP = "stride32"


class LiteEncoder(TextQueries):
    """Frozen towers, and trained heads if `heads` names their directory. Each file is loaded when it is first used.

    `maps` and `text_tower` give the inputs of the heads, for training."""

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
        checksums = [config["sha256"][name] for name in ("text.onnx", "tokenizer.json")]
        self.text_tower_fingerprint = fingerprint_of({"files": checksums, "max_words": config["max_words"]})
        self.fingerprint = self.tower_fingerprint
        shape: dict[str, Any] = config
        if heads is not None:
            shape = json.loads((heads / "config.json").read_text())
            if shape["towers"] != self.tower_fingerprint:
                raise CrosslookError(f"{heads} belongs to another version of lite: train it again with `search train`")
            self.fingerprint = fingerprint_of({"towers": config, "heads": shape["sha256"]})
        self.dim: int = shape["dim"]
        self.region_shape: tuple[int, int] = (shape["regions"]["count"], shape["regions"]["dim"])
        self.region_dtype: str = shape["regions"]["dtype"]
        self.image_size: int = config["image_size"]
        self.max_tokens: int = config["max_words"]
        self.text_tower = TextTower(towers / "text.onnx", towers / "tokenizer.json", self.max_tokens)

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
        """The text embeddings of the ImageNet classes, float32 [1000, 384], unit norm."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        weights = self._towers / "model.safetensors"
        try:
            return load_file(weights)["class_embeddings"]
        except (SafetensorError, KeyError) as error:
            raise CrosslookError(f"cannot read {weights}: it is damaged (reinstall crosslook)") from error

    def prepare(self, photo: Photo) -> NDArray[np.uint8]:
        """uint8 [224, 224, 3]: the entire picture, squashed to a square, so that nothing at its edges is lost."""
        from PIL import Image

        side = (self.image_size, self.image_size)
        return np.asarray(Image.fromarray(photo.pixels).resize(side, Image.Resampling.BICUBIC))

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        maps = dict(zip(MAPS, self.maps(prepared, MAPS), strict=True))
        if self._heads is not None:
            return self._headed(prepared, maps)
        cells, (count, channels) = maps[REGION_MAP], self.region_shape
        regions = cells.reshape(len(cells), channels, count).transpose(0, 2, 1)
        return ImageFeatures(self._conse(maps["logits"]), np.ascontiguousarray(regions, dtype=self.region_dtype))

    def _conse(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """unit_norm(softmax(logits) @ class_embeddings), float32 [n, 384]."""
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        # Not a matrix product, whose rounding may depend on the number of images.
        return unit_norm(np.einsum("nc,cd->nd", weights, self.class_embeddings, optimize=False))

    def _headed(self, prepared: Sequence[NDArray[Any]], maps: dict[str, NDArray[np.float32]]) -> ImageFeatures:
        """The head always runs on `batch_size` images, padded with zeros, so that an embedding does not depend on the
        number of images."""
        inputs = {"pixels": np.stack(prepared), **maps}
        outputs = []
        for low in range(0, len(prepared), self.batch_size):
            batch = {name: values[low : low + self.batch_size] for name, values in inputs.items()}
            count = len(batch["pixels"])
            padding = (0, self.batch_size - count)
            padded = {name: np.pad(values, [padding] + [(0, 0)] * (values.ndim - 1)) for name, values in batch.items()}
            outputs.append([values[:count] for values in self._image_head.run(["embedding", "tokens"], padded)])
        embeddings, regions = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return ImageFeatures(embeddings, regions)

    def maps(self, prepared: Sequence[NDArray[Any]], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """Outputs of the image tower by name: `logits` [n, 1000], `stride8` [n, 48, 28, 28], `stride16`
        [n, 120, 14, 14], `stride32` [n, 672, 7, 7], all float32."""
        return list(self._image.run(list(names), {"pixels": np.stack(prepared)}))

    def encode_texts(self, texts: Sequence[str]) -> QueryFeatures:
        features = self.text_tower.encode(texts)
        if self._heads is None or not len(texts):
            return features
        inputs = {"tower": features.embeddings, "words": features.tokens, "mask": features.mask}
        return replace(features, embeddings=self._text_head.run(["embedding"], inputs)[0])

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return self.text_tower.spans(text)
