"""What trained modules say of a whole set of features, as indexing and queries would but for rounding to int8."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.evaluation.metrics import caption_relevance, streamed_ranks, success_at
from retrieval.training.data.views import ORIGINAL
from retrieval.training.parallel import on_device

if TYPE_CHECKING:
    from retrieval.training.data.features import Features
    from retrieval.training.data.inputs import Inputs
    from retrieval.training.model.heads import Heads
    from retrieval.training.model.model import FusionNetwork

AT_ONCE = 500
PAIRS_AT_ONCE, PAIRS_ON_GPU = 100, 2000


@torch.inference_mode()  # type: ignore[untyped-decorator]
def embed(
    inputs: Inputs, heads: Heads, features: Features, towers: bool = False
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """The embeddings of all images (view 0) and of all texts by each pair of heads, float32 [n, 384], unit norm.

    towers: whether to append the embeddings by the towers. Without any heads, these are the only ones."""
    if not heads.image:
        global_features = features.rows_of("global_features", ORIGINAL)
        return [global_features.cpu().numpy()], [features.rows_of("text_embeddings").cpu().numpy()]
    images, texts = [], []
    for low in range(0, features.image_count, AT_ONCE):
        rows = slice(low, low + AT_ONCE)
        logits = features.rows_of("global_features", ORIGINAL, rows)
        cells, classes = inputs(features.rows_of("cells", ORIGINAL, rows), logits)
        parts = heads.images(cells, classes, logits)
        images.append(torch.stack([*parts, heads.conse(logits)] if towers else parts))
    for low in range(0, features.text_count, AT_ONCE):
        batch = np.arange(low, min(low + AT_ONCE, features.text_count))
        by_tower = features.rows_of("text_embeddings", batch)
        parts = heads.texts(by_tower, *features.tokens_of(batch))
        texts.append(torch.stack([*parts, by_tower] if towers else parts))
    return list(torch.cat(images, dim=1).cpu().numpy()), list(torch.cat(texts, dim=1).cpu().numpy())


@torch.inference_mode()  # type: ignore[untyped-decorator]
def regions_of(
    inputs: Inputs, scorer: FusionNetwork, features: Features, images: NDArray[np.int64] | None = None
) -> torch.Tensor:
    """The regions of images (view 0), float32 [n, 49, dim]. images: int64 [n], their rows; None for all."""
    regions = []
    for low in range(0, features.image_count if images is None else len(images), AT_ONCE):
        rows = slice(low, low + AT_ONCE) if images is None else images[low : low + AT_ONCE]
        cells = features.rows_of("cells", ORIGINAL, rows)
        global_features = features.rows_of("global_features", ORIGINAL, rows)
        regions.append(scorer.regions(*inputs(cells, global_features)))
    return torch.cat(regions)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def fusion_of(
    scorer: FusionNetwork,
    features: Features,
    texts: NDArray[np.int64],
    images: NDArray[np.int64],
    regions: torch.Tensor,
) -> NDArray[np.float32]:
    """Fusion of pairs of a text and an image, see `Reader`.

    texts, images: int64 rows, broadcast together; the result is float32 of their common shape. regions: of all
    images, float [images, 49, dim]."""
    texts, images = np.broadcast_arrays(texts, images)
    shape, texts, images = texts.shape, texts.ravel(), images.ravel()
    logits = np.zeros(len(texts), np.float32)
    lengths = features.starts[texts + 1] - features.starts[texts]
    order = np.lexsort((texts, lengths))  # a batch holds texts of one length, and few of them
    at_once = PAIRS_AT_ONCE if regions.device.type == "cpu" else PAIRS_ON_GPU
    for low in range(0, len(order), at_once):
        pairs = order[low : low + at_once]
        distinct, row = np.unique(texts[pairs], return_inverse=True)
        tokens, _ = features.tokens_of(distinct)
        batch = scorer.reader.score_pairs(tokens, on_device(row), regions[images[pairs]])
        logits[pairs] = batch.cpu().numpy()
    return logits.reshape(shape)


def side_by_side(ensemble: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The embeddings of an ensemble, each [n, d] of unit norm, as one of unit norm: [n, len(ensemble) * d]. Its inner
    product is the mean of theirs."""
    return np.concatenate(ensemble, axis=1) / np.float32(math.sqrt(len(ensemble)))


def recall_at_1(
    images: NDArray[np.float32], texts: NDArray[np.float32], image_of_text: NDArray[np.int64]
) -> dict[str, float]:
    """R@1 by similarity of every text among the images, and of every image among the texts, 0 to 1.

    images, texts: float32 [n, dim], unit norm. image_of_text: int64 [texts]."""
    to_image, to_text = caption_relevance(image_of_text)
    return {
        "text -> image": float(success_at(streamed_ranks(texts, images, to_image), 1).mean()),
        "image -> text": float(success_at(streamed_ranks(images, texts, to_text), 1).mean()),
    }
