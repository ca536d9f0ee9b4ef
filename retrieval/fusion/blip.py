"""BLIP's image-text matching as a scorer, from the model hub or a directory.

BLIP sees the image files again, since it cannot use what a collection stores: a query with a hundred candidates takes
minutes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.fusion.base import Candidates, EncodedQuery, TwoWayLogits
from retrieval.images import Photo
from retrieval.privacy import from_cache_first

AT_ONCE, AT_ONCE_ON_GPU = 8, 64


class BlipScorer:
    """logit = logit of the matching head + cosine similarity of the contrastive heads, by which the paper ranks (Li et
    al. 2022, "BLIP: Bootstrapping Language-Image Pre-training", and its evaluation script)."""

    reranks = True
    calibrated = False

    def __init__(self, model: Any, processor: Any, device: str = "auto", half: bool | None = None) -> None:
        """model: transformers' `BlipForImageTextRetrieval`. processor: its `BlipProcessor`. half: whether products are
        computed in float16; the default is to do so on a GPU, where it is several times faster, and not on a CPU."""
        from retrieval.encoders.devices import torch_device
        from retrieval.encoders.torch_start import without_cudnn_attention

        self._device = torch_device(device)
        without_cudnn_attention(self._device)
        self._half = self._device.type == "cuda" if half is None else half
        self._at_once = AT_ONCE_ON_GPU if self._device.type == "cuda" else AT_ONCE
        self._model = model.eval().to(self._device)
        self._processor = processor
        self.image_size: int = model.config.vision_config.image_size

    @property
    def device(self) -> str:
        """torch's name of it, such as `cuda`."""
        return str(self._device.type)

    def load(self) -> None:
        pass

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        import torch

        text = query.query.only_text("the scorer blip")
        logits = np.full(len(candidates), np.nan, np.float32)
        model = self._model
        autocast = torch.autocast(self._device.type, dtype=torch.float16, enabled=self._half)
        with torch.inference_mode(), autocast:
            tokens = self._processor.tokenizer(
                text, return_tensors="pt", truncation=True, max_length=model.config.text_config.max_position_embeddings
            ).to(self._device)
            unfused = model.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
            text_embedding = torch.nn.functional.normalize(model.text_proj(unfused[:, 0]), dim=-1)
            for indices, photos in _batches(candidates.photos(self.image_size), self._at_once):
                pixels = [photo.pixels for photo in photos]
                inputs = self._processor.image_processor(pixels, return_tensors="pt").to(self._device)
                regions = model.vision_model(**inputs).last_hidden_state
                fused = model.text_encoder(
                    tokens.input_ids.expand(len(pixels), -1),
                    attention_mask=tokens.attention_mask.expand(len(pixels), -1),
                    encoder_hidden_states=regions,
                    encoder_attention_mask=torch.ones(regions.shape[:2], dtype=torch.long, device=self._device),
                ).last_hidden_state
                matching = model.itm_head(fused[:, 0])[:, 1]
                image_embeddings = torch.nn.functional.normalize(model.vision_proj(regions[:, 0]), dim=-1)
                logits[indices] = (matching + (image_embeddings @ text_embedding.T)[:, 0]).float().cpu().numpy()
        return logits

    def score_both_ways(self, query: EncodedQuery, candidates: Candidates) -> TwoWayLogits:
        logits = self.score(query, candidates)
        return TwoWayLogits(logits, logits)

    def explain(self, query: EncodedQuery, similarity: np.float32, regions: NDArray[Any]) -> None:
        """None: BLIP does not see the stored regions."""


def _batches(photos: Iterator[Photo | None], at_once: int) -> Iterator[tuple[list[int], list[Photo]]]:
    """The indices of the photos that can be seen, and those photos, `at_once` at a time."""
    visible = ((index, photo) for index, photo in enumerate(photos) if photo is not None)
    while batch := list(islice(visible, at_once)):
        yield [index for index, _ in batch], [photo for _, photo in batch]


def load_blip(name: str, device: str = "auto") -> BlipScorer:
    """name: a repository of the model hub, which is downloaded once, or a directory.

    Raises `CrosslookError` if torch or transformers is missing, or no such model exists."""
    try:
        import torch  # noqa: F401  (transformers imports without it, and fails later)
        from safetensors import SafetensorError
        from transformers import BlipForImageTextRetrieval, BlipProcessor
    except ImportError as error:
        raise CrosslookError(
            "the scorer blip needs torch and transformers: pip install 'crosslook[cpu,build]'"
        ) from error
    try:
        model, report = from_cache_first(
            lambda: BlipForImageTextRetrieval.from_pretrained(name, use_safetensors=True, output_loading_info=True)
        )
        processor = from_cache_first(lambda: BlipProcessor.from_pretrained(name))
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CrosslookError(f"cannot load the scorer blip:{name}: {reason}") from error
    if report["missing_keys"]:
        raise CrosslookError(f"cannot load the scorer blip:{name}: it has no weights for image-text matching")
    return BlipScorer(model, processor, device)
