"""BLIP's image-text matching as a scorer, for those who can download it or hold it in a directory.

It has to see every candidate again: nothing that a collection stores is of use to it, and a query of a
hundred candidates takes minutes on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.images import Photo
from retrieval.privacy import from_cache_first

AT_ONCE = 8


class BlipScorer:
    """Score = logit of the matching head + cosine similarity of the contrastive heads, as the paper ranks (Li et al.
    2022, "BLIP: Bootstrapping Language-Image Pre-training", and its evaluation script)."""

    calibrated = False

    def __init__(self, model: Any, processor: Any, device: str = "auto") -> None:
        """model: transformers' `BlipForImageTextRetrieval`. processor: its `BlipProcessor`."""
        from retrieval.encoders.openclip import torch_device

        self._device = torch_device(device)
        self._model = model.eval().to(self._device)
        self._processor = processor
        self.image_size: int = model.config.vision_config.image_size

    def score_photos(self, text: str, photos: Sequence[Photo]) -> NDArray[np.float32]:
        import torch

        model, found = self._model, []
        with torch.inference_mode():
            words = self._processor.tokenizer(
                text, return_tensors="pt", truncation=True, max_length=model.config.text_config.max_position_embeddings
            ).to(self._device)
            alone = model.text_encoder(words.input_ids, attention_mask=words.attention_mask).last_hidden_state
            text_embedding = torch.nn.functional.normalize(model.text_proj(alone[:, 0]), dim=-1)
            for low in range(0, len(photos), AT_ONCE):
                pixels = [photo.pixels for photo in photos[low : low + AT_ONCE]]
                inputs = self._processor.image_processor(pixels, return_tensors="pt").to(self._device)
                regions = model.vision_model(**inputs).last_hidden_state
                fused = model.text_encoder(
                    words.input_ids.expand(len(pixels), -1),
                    attention_mask=words.attention_mask.expand(len(pixels), -1),
                    encoder_hidden_states=regions,
                    encoder_attention_mask=torch.ones(regions.shape[:2], dtype=torch.long, device=self._device),
                ).last_hidden_state
                matching = model.itm_head(fused[:, 0])[:, 1]
                image_embeddings = torch.nn.functional.normalize(model.vision_proj(regions[:, 0]), dim=-1)
                found.append((matching + (image_embeddings @ text_embedding.T)[:, 0]).float().cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0, np.float32)


def load_blip(name: str, device: str = "auto") -> BlipScorer:
    """From a repository of the model hub, which is downloaded once, or a directory.

    Raises `CrosslookError` where transformers is missing or there is no such model."""
    try:
        import torch  # noqa: F401  (transformers imports without it, and fails later)
        from safetensors import SafetensorError
        from transformers import BlipForImageTextRetrieval, BlipProcessor
    except ImportError as error:
        raise CrosslookError(
            "the scorer blip needs torch and transformers: pip install 'crosslook[cpu,build]'"
        ) from error
    try:
        model, about = from_cache_first(
            lambda: BlipForImageTextRetrieval.from_pretrained(name, use_safetensors=True, output_loading_info=True)
        )
        processor = from_cache_first(lambda: BlipProcessor.from_pretrained(name))
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CrosslookError(f"cannot load the scorer blip:{name}: {reason}") from error
    if about["missing_keys"]:
        raise CrosslookError(f"cannot load the scorer blip:{name}: it has no weights for image-text matching")
    return BlipScorer(model, processor, device)
