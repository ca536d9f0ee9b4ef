"""`lite`, the embedded encoder: two EfficientNet-Lites and all-MiniLM-L6-v2 on ONNX Runtime, without torch; with a GPU,
images and many texts at once on torch (`lite_torch`).

The towers alone embed an image as the mean of the text embeddings of the 1000 ImageNet classes, weighted by the
classifier's softmax (ConSE: Norouzi et al. 2013, "Zero-Shot Learning by Convex Combination of Semantic Embeddings").
Heads, trained by `search train`, add a learned residual to the embeddings of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import ImageFeatures, QueryFeatures, TextQueries, fingerprint_of, unit_norm
from retrieval.encoders.device_memory import REMEDY, GpuMemoryError
from retrieval.encoders.devices import check_device, gpu_of_torch
from retrieval.encoders.runtime import once, open_session
from retrieval.encoders.text_tower import TextTower
from retrieval.encoders.torch_start import starting
from retrieval.images import Photo

if TYPE_CHECKING:
    from retrieval.encoders.lite_torch import LiteOnDevice

TOWERS = Path(__file__).parents[1] / "weights" / "lite"
HEADS = Path(__file__).parents[1] / "weights" / "lite-heads"
HEADS_OF_LITE = "heads and scorer of lite"  # the `kind` in the configuration of such a model directory
MAPS = ("logits", "stride8", "stride16", "stride32")
REGION_MAP = "stride32"
BATCH, BATCH_ON_GPU = 16, 256
MANY_TEXTS = 64  # that are encoded together are encoded on the GPU, if images are


class LiteEncoder(TextQueries):
    """Frozen towers, and trained heads if `heads` names their directory. Each file is loaded when it is first used.

    device: `auto`, `cpu` or `cuda`. Whether there is a GPU is found out when images or many texts are first encoded, so
    that a query never imports torch. Fingerprint and embeddings are the same on either device. With `auto`, the
    processor computes in the place of a GPU that fails or lacks memory, and `note` is called with the reason.

    takes_pixels: whether `prepare` leaves a photo's pixels as they are, to be resized on a GPU. `maps` and `text_tower`
    give the inputs of the heads, for training."""

    def __init__(
        self,
        name: str = "lite",
        towers: Path = TOWERS,
        heads: Path | None = None,
        device: str = "auto",
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        check_device(device, name)
        self.name = name
        self.folder = heads
        self._towers = towers
        self._heads = heads
        self._device = device
        self._note = note
        self._leaving = Lock()
        self._has_left_gpu = False
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
    def _gpu(self) -> Any:
        return gpu_of_torch(self._device)

    @once
    def _batch_on_gpu(self) -> int:
        """0 where the processor computes."""
        if self._gpu is None:
            return 0
        try:
            with starting(self._device):
                self._on_gpu.load_images()
            return self._on_gpu.batch_size(BATCH_ON_GPU)
        except (GpuMemoryError, RuntimeError) as error:  # the latter of torch, as for a GPU that it does not support
            self._leave_gpu(error)
            return 0

    # Not by decorators, whose results mypy takes to be read-only, unlike the fields of the protocol.
    takes_pixels: once[bool] = once(lambda encoder: encoder._batch_on_gpu > 0)
    batch_size: once[int] = once(lambda encoder: encoder._batch_on_gpu or BATCH)

    @once
    def _on_gpu(self) -> LiteOnDevice:
        from retrieval.encoders.lite_torch import LiteOnDevice

        return LiteOnDevice(self._towers, self._heads, self.class_embeddings, self.image_size, self._gpu)

    def _leave_gpu(self, error: Exception) -> None:
        """From now on the processor computes, which is noted once. Raises `CrosslookError` if the GPU was asked for."""
        is_line = isinstance(error, CrosslookError)
        reason = str(error) if is_line else f"the GPU cannot be used ({(str(error).splitlines() or ['it failed'])[0]})"
        if self._device == "cuda":
            raise CrosslookError(reason if is_line else f"{reason}: use --device cpu") from error
        with self._leaving:
            is_first, self._has_left_gpu = not self._has_left_gpu, True
        if is_first:
            self._note(f"{reason.removesuffix(REMEDY)}: {self.name} goes on without it")

    @once
    def _image(self) -> Any:
        return open_session(self._towers / "image.onnx")

    @once
    def _image_head(self) -> Any:
        assert self._heads is not None
        return open_session(self._heads / "image_head.onnx")

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
        """uint8 [224, 224, 3]: the entire picture, squashed to a square, so that nothing at its edges is lost. With
        `takes_pixels` it is squashed by `encode_images`."""
        return photo.pixels if self.takes_pixels else self.squashed(photo)

    def squashed(self, photo: Photo) -> NDArray[np.uint8]:
        """uint8 [224, 224, 3]: what the towers see of a photo, on either device."""
        return self._resized(photo.pixels)

    def _resized(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        side = (self.image_size, self.image_size)
        return np.asarray(Image.fromarray(pixels).resize(side, Image.Resampling.BICUBIC))

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        if not self.takes_pixels:
            return self._by_processor(prepared)
        if not self._has_left_gpu:
            try:
                return self._on_gpu.encode_images(prepared)
            except GpuMemoryError as error:
                self._leave_gpu(error)
        squashed = [self._resized(pixels) for pixels in prepared]
        parts = [self._by_processor(squashed[low : low + BATCH]) for low in range(0, len(squashed), BATCH)]
        embeddings, regions = zip(*((part.embeddings, part.regions) for part in parts), strict=True)
        return ImageFeatures(np.concatenate(embeddings), np.concatenate(regions))

    def _by_processor(self, prepared: Sequence[NDArray[np.uint8]]) -> ImageFeatures:
        """prepared: as `squashed` returns them."""
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
        """The head always runs on `BATCH` images, padded with zeros, so that an embedding does not depend on the
        number of images."""
        inputs = {"pixels": np.stack(prepared), **maps}
        outputs = []
        for low in range(0, len(prepared), BATCH):
            batch = {name: values[low : low + BATCH] for name, values in inputs.items()}
            count = len(batch["pixels"])
            padding = (0, BATCH - count)
            padded = {name: np.pad(values, [padding] + [(0, 0)] * (values.ndim - 1)) for name, values in batch.items()}
            outputs.append([values[:count] for values in self._image_head.run(["embedding", "tokens"], padded)])
        embeddings, regions = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return ImageFeatures(embeddings, regions)

    def maps(self, prepared: Sequence[NDArray[Any]], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """Outputs of the image tower by name: `logits` [n, 1000], `stride8` [n, 48, 28, 28], `stride16`
        [n, 120, 14, 14], `stride32` [n, 672, 7, 7], all float32. prepared: as `squashed` returns them."""
        return list(self._image.run(list(names), {"pixels": np.stack(prepared)}))

    def encode_texts(self, texts: Sequence[str]) -> QueryFeatures:
        if len(texts) >= MANY_TEXTS and self._gpu is not None and not self._has_left_gpu:
            try:
                return self.text_tower.encode(texts, self._on_gpu.texts)
            except GpuMemoryError as error:
                self._leave_gpu(error)
        features = self.text_tower.encode(texts)
        if self._heads is None or not len(texts):
            return features
        inputs = {"tower": features.embeddings, "words": features.tokens, "mask": features.mask}
        return replace(features, embeddings=self._text_head.run(["embedding"], inputs)[0])

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return self.text_tower.spans(text)
