"""Any open_clip model as an encoder, on torch."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import ImageFeatures, QueryFeatures, TextQueries, fingerprint_of, unit_norm
from retrieval.images import Photo
from retrieval.privacy import from_cache_first

GRID = 7  # regions are at most GRID x GRID cells


class OpenClipEncoder(TextQueries):
    """An open_clip model with its preprocessing and tokeniser.

    Regions: the vision tower's last normalised map, averaged to at most 7x7 cells, float16. Token vectors of a
    text: the text tower's last hidden states. `model`, `tokenizer` and `config` are open_clip's, for training and
    exporting. normalized: whether the towers' last norms fit their maps; those of CoCa do not."""

    batch_size = 32
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
    ) -> None:
        """config: open_clip's configuration of the architecture. half: whether to compute in 16 bits; the default is to
        do so on a GPU, where it is several times faster, and not on a CPU, where it is slower."""
        import torch

        self.name = name
        self.config = config
        self._device = torch_device(device)
        self._half = self._device.type == "cuda" if half is None else half
        # PyTorch's convolutions are several times faster with all channels of a pixel side by side, on either device.
        self.model = model.eval().to(self._device, memory_format=torch.channels_last)
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self._tokenizing = Lock()  # tokenisers of the hub set their length in each call, which fails in two threads
        size = model.visual.image_size
        self.image_size: int = max(size) if isinstance(size, tuple | list) else int(size)
        self.max_tokens: int = tokenizer.context_length
        self.region_dtype = "float16"
        self.normalized = True
        grey = [self.prepare(Photo(np.full((8, 8, 3), 128, np.uint8), 8, 8, None))]
        try:
            probe = self.encode_images(grey)
        except RuntimeError:
            self.normalized = False
            probe = self.encode_images(grey)
        self._probe_tokens()
        self.dim: int = probe.embeddings.shape[1]
        self.region_shape: tuple[int, int] = (probe.regions.shape[1], probe.regions.shape[2])
        self.fingerprint = fingerprint_of(
            {
                "weights": weights_checksum(model),
                "architecture": config,
                "modules": repr(model),  # with what a set of weights asks for, such as another activation
                "preprocess": {key: str(value) for key, value in model.visual.preprocess_cfg.items()},
                "regions": {"map": "last", "grid": GRID, "shape": self.region_shape, "dtype": self.region_dtype},
            }
        )

    def prepare(self, photo: Photo) -> NDArray[np.float32]:
        """float32 [3, side, side]: open_clip's own validation preprocessing."""
        from PIL import Image

        return np.asarray(self.preprocess(Image.fromarray(photo.pixels)))

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        import torch

        pixels = self._on_device(torch.from_numpy(np.stack(prepared))).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), self._autocast():
            outputs = self.model.forward_intermediates(
                image=pixels, image_indices=1, normalize_intermediates=self.normalized
            )
            cells = outputs["image_intermediates"][-1].float()
            grid = grid_of(cells.shape[2], cells.shape[3])
            regions = torch.nn.functional.adaptive_avg_pool2d(cells, grid).flatten(2).transpose(1, 2)
        embeddings = outputs["image_features"].float().cpu().numpy()
        return ImageFeatures(unit_norm(embeddings), regions.cpu().numpy().astype(np.float16))

    def encode_texts(self, texts: Sequence[str]) -> QueryFeatures:
        import torch

        ids, truncated = self.token_ids(texts)
        with torch.inference_mode(), self._autocast():
            outputs = self.model.forward_intermediates(
                text=self._on_device(ids), text_indices=1, normalize_intermediates=self.normalized
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

    def _on_device(self, tensor: Any) -> Any:
        """The tensor on the model's device; copied to a GPU from pinned memory, asynchronously."""
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _autocast(self) -> Any:
        """bfloat16, which has the range of float32; float16 on GPUs that lack bfloat16."""
        import torch

        lacks_bfloat16 = self._device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.autocast(
            self._device.type, dtype=torch.float16 if lacks_bfloat16 else torch.bfloat16, enabled=self._half
        )


def grid_of(rows: int, columns: int) -> tuple[int, int]:
    """The grid of regions for a map of rows x columns cells."""
    return min(GRID, rows), min(GRID, columns)


def load_openclip(name: str, device: str = "auto") -> OpenClipEncoder:
    """`NAME:PRETRAINED`, or a directory as open_clip writes them (open_clip_config.json and weights).

    Raises `CrosslookError` for an unknown name, an unknown set of weights, weights that cannot be fetched, and where
    torch or open_clip are not installed."""
    try:
        import open_clip
    except ImportError as error:
        raise CrosslookError(
            f"model {name} needs torch and open_clip: pip install 'crosslook[torch]' ('crosslook[gpu]' with a GPU)"
        ) from error

    if Path(name).is_dir():
        return _create(name, f"local-dir:{Path(name).absolute()}", None, _directory_config(Path(name)), device)
    architecture, _, pretrained = name.partition(":")
    if architecture not in open_clip.list_models():
        raise CrosslookError(
            f"open_clip has no model named {architecture}{_closest(architecture, open_clip.list_models())}: "
            "`search models` lists some, or give a model directory"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise CrosslookError(f"{architecture} has no weights named {pretrained!r}: use one of {', '.join(tags)}")
    return _create(name, architecture, pretrained, open_clip.get_model_config(architecture), device)


def _directory_config(folder: Path) -> dict[str, Any]:
    path = folder / "open_clip_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CrosslookError(f"cannot read {path}: it is not a configuration of open_clip") from error
    return config


def _create(
    name: str, architecture: str, pretrained: str | None, config: dict[str, Any], device: str
) -> OpenClipEncoder:
    import open_clip

    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)  # the hub's client logs every retry; the error below says enough
    try:
        model, _, preprocess = from_cache_first(
            lambda: open_clip.create_model_and_transforms(architecture, pretrained=pretrained, require_pretrained=True)
        )
        tokenizer = from_cache_first(lambda: open_clip.get_tokenizer(architecture))
    except Exception as error:  # hub, checkpoint and configuration errors share no base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = (
            "check that the directory holds open_clip_config.json and weights"
            if architecture.startswith("local-dir:")
            else "they come from the model hub on first use, so check the network, or give a model directory"
        )
        raise CrosslookError(f"cannot load the weights of {name}: {reason}; {remedy}") from error
    finally:
        logging.disable(disabled)
    return OpenClipEncoder(name, model, preprocess, tokenizer, config, device)


def weights_checksum(model: Any) -> str:
    """sha256 over the names and values of all weights, independent of the file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def torch_device(device: str) -> Any:
    """`auto` is a GPU if torch has one. Raises `CrosslookError` for `cuda` without a CUDA device."""
    import torch

    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise CrosslookError("torch finds no CUDA device: use --device cpu")
    return torch.device("cuda" if has_cuda and device != "cpu" else "cpu")


def _closest(name: str, names: Sequence[str]) -> str:
    from difflib import get_close_matches

    matches = get_close_matches(name, names, n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""
