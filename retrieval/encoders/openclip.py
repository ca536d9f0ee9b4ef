"""Any open_clip model as an encoder, on torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import ImageFeatures, QueryFeatures, TextQueries, fingerprint_of, unit_norm
from retrieval.encoders.device_memory import memory_for
from retrieval.encoders.devices import torch_device
from retrieval.encoders.openclip_images import GRID, ImageTower, autocast
from retrieval.encoders.preprocessing import preprocessing_of
from retrieval.encoders.weights import weights_checksum
from retrieval.images import Photo

BATCH_SIZE = 32


class OpenClipEncoder(TextQueries):
    """An open_clip model with its preprocessing and tokeniser.

    Regions: the vision tower's last normalised map, averaged to at most 7x7 cells, float16. Token vectors of a
    text: the text tower's last hidden states. `model`, `tokenizer` and `config` are open_clip's, for training and
    exporting. normalized: whether the towers' last norms fit their maps; those of CoCa do not."""

    folder: Path | None = None  # a scorer for such a model has its own directory, see `AdaptedEncoder`

    def __init__(
        self,
        name: str,
        model: Any,
        preprocess: Any,
        tokenizer: Any,
        config: dict[str, Any],
        device: str = "auto",
        half: bool | None = None,
        takes_pixels: bool | None = None,
        checksum: str | None = None,
    ) -> None:
        """config: open_clip's configuration of the architecture. half: whether to compute in 16 bits; the default is to
        do so on a GPU, where it is several times faster, and not on a CPU, where it is slower. takes_pixels: whether
        the device resizes and normalises photos; the default is to do so on a GPU. A preprocessing that
        `preprocessing_of` does not know stays on the processor. checksum: what `weights_checksum` gives of the model,
        where that is known."""
        import torch

        self.name = name
        self.config = config
        self._device = torch_device(device)
        is_gpu = self._device.type == "cuda"
        self._half = is_gpu if half is None else half
        # PyTorch's convolutions are several times faster with all channels of a pixel side by side, on either device.
        with memory_for("the weights"):
            self.model = model.eval().to(self._device, memory_format=torch.channels_last)
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self._tokenizing = Lock()  # tokenisers of the hub set their length in each call, which fails in two threads
        size = model.visual.image_size
        self.image_size: int = max(size) if isinstance(size, tuple | list) else int(size)
        self.max_tokens: int = tokenizer.context_length
        self.region_dtype = "float16"
        grey = self.to_input(Photo(np.full((8, 8, 3), 128, np.uint8), 8, 8, None))
        preprocessing = preprocessing_of(model.visual.preprocess_cfg)
        self.takes_pixels = (is_gpu if takes_pixels is None else takes_pixels) and preprocessing is not None
        self._images = ImageTower(self.model, self._device, self.inference_dtype, preprocessing, grey)
        self.normalized = self._images.normalized
        probe = self._images.encode([grey])
        self._probe_tokens()
        self.batch_size = self._images.batch_size_on_gpu() if is_gpu and self.takes_pixels else BATCH_SIZE
        self.dim: int = probe.embeddings.shape[1]
        self.region_shape: tuple[int, int] = (probe.regions.shape[1], probe.regions.shape[2])
        self.fingerprint = fingerprint_of(
            {
                "weights": checksum or weights_checksum(model),
                "architecture": config,
                "modules": repr(model),  # with what a set of weights asks for, such as another activation
                "preprocess": {key: str(value) for key, value in model.visual.preprocess_cfg.items()},
                "regions": {"map": "last", "grid": GRID, "shape": self.region_shape, "dtype": self.region_dtype},
            }
        )

    @property
    def inference_dtype(self) -> Any:
        """bfloat16 if the model computes in 16 bits, which has the range of float32; float16 on GPUs that lack it; else
        float32."""
        import torch

        if not self._half:
            return torch.float32
        lacks_bfloat16 = self._device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.float16 if lacks_bfloat16 else torch.bfloat16

    def prepare(self, photo: Photo) -> NDArray[Any]:
        """The pixels, uint8 [h, w, 3], if the encoder takes them; else the same as `to_input`."""
        return photo.pixels if self.takes_pixels else self.to_input(photo)

    def to_input(self, photo: Photo) -> NDArray[np.float32]:
        """float32 [3, side, side]: open_clip's own validation preprocessing, by Pillow. `encode_images` takes it like
        the result of `prepare`."""
        from PIL import Image

        return np.asarray(self.preprocess(Image.fromarray(photo.pixels)))

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        return self._images.encode(prepared)

    def encode_texts(self, texts: Sequence[str]) -> QueryFeatures:
        import torch

        ids, truncated = self.token_ids(texts)
        with torch.inference_mode(), self._autocast():
            outputs = self.model.forward_intermediates(
                text=ids.to(self._device), text_indices=1, normalize_intermediates=self.normalized
            )
        mask = self._token_mask(ids.numpy())
        longest = int(mask.sum(axis=1).max(initial=1))
        vectors = outputs["text_intermediates"][-1].float().cpu().numpy()[:, :longest]
        mask = mask[:, :longest]
        return QueryFeatures(
            embeddings=unit_norm(outputs["text_features"].float().cpu().numpy()),  # in 16 bits the norm is not quite 1
            tokens=vectors * mask[:, :, None],
            mask=mask,
            truncated=truncated,
        )

    def token_spans(self, text: str) -> None:
        """None: preprocessing may crop the image."""

    def token_ids(self, texts: Sequence[str]) -> tuple[Any, NDArray[np.bool_]]:
        """Ids, int64 [n, max_tokens], and which texts have more tokens, bool [n]. A text has more if room for one more
        token changes its other ids, or is used."""
        with self._tokenizing:
            ids = self.tokenizer(list(texts))
            longer = self.tokenizer(list(texts), context_length=self.max_tokens + 1).numpy()
        hub_tokenizer = getattr(self.tokenizer, "tokenizer", None)
        padding = int(getattr(hub_tokenizer, "pad_token_id", None) or 0)
        truncated = (longer[:, :-1] != ids.numpy()).any(axis=1) | (longer[:, -1] != padding)
        return ids, np.asarray(truncated, dtype=np.bool_)

    def _probe_tokens(self) -> None:
        """Fails now, not after hours of indexing, if texts cannot be encoded."""
        try:
            self.encode_texts(["a dog"])
        except Exception as error:
            raise CrosslookError(
                f"the text tower of {self.name} does not give a vector for each token, which ranking needs: choose a "
                "model without a Hugging Face text tower"
            ) from error

    def _token_mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        from open_clip.tokenizer import SimpleTokenizer

        if isinstance(self.tokenizer, SimpleTokenizer):  # its padding, 0, is also the id of "!"; EOS has the largest id
            return np.asarray(np.arange(ids.shape[1]) <= ids.argmax(axis=1)[:, None])
        return np.asarray(ids != getattr(self.model.text, "pad_id", 0))

    def _autocast(self) -> Any:
        return autocast(self._device, self.inference_dtype)
