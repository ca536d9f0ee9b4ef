"""What modules in their evaluating state make of a set of features, as indexing and queries would but for rounding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.evaluation.metrics import caption_relevance, streamed_ranks, success_at
from retrieval.training.data.batches import as_float
from retrieval.training.data.views import WHOLE
from retrieval.training.learning.parallel import on_device

if TYPE_CHECKING:
    from retrieval.training.data.features import Features
    from retrieval.training.model.heads import Heads, Inputs
    from retrieval.training.model.model import Scorer

AT_ONCE = 500
PAIRS_AT_ONCE = 100


@torch.inference_mode()  # type: ignore[untyped-decorator]
def embed(
    inputs: Inputs, heads: Heads, features: Features, towers: bool = False
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """By each member of the heads, the embeddings of all images as they are, and of all texts, float32 [n, 384].
    towers: and last those by the towers alone, which are all there are where there are no heads."""
    if not heads.image:
        return [as_float(features.whole[WHOLE]).cpu().numpy()], [as_float(features.texts).cpu().numpy()]
    images, texts = [], []
    for low in range(0, features.images, AT_ONCE):
        rows = slice(low, low + AT_ONCE)
        logits = as_float(features.whole[WHOLE, rows])
        cells, classes = inputs(as_float(features.cells[WHOLE, rows]), logits)
        parts = heads.images(cells, classes, logits)
        images.append(torch.stack([*parts, heads.conse(logits)] if towers else parts))
    for low in range(0, len(features.texts), AT_ONCE):
        some = np.arange(low, min(low + AT_ONCE, len(features.texts)))
        frozen = as_float(features.texts[some])
        parts = heads.texts(frozen, *features.words_of(some))
        texts.append(torch.stack([*parts, frozen] if towers else parts))
    return list(torch.cat(images, dim=1).cpu().numpy()), list(torch.cat(texts, dim=1).cpu().numpy())


@torch.inference_mode()  # type: ignore[untyped-decorator]
def regions_of(
    inputs: Inputs, scorer: Scorer, features: Features, images: NDArray[np.int64] | None = None
) -> torch.Tensor:
    """The region tokens of images as they are, float32 [n, 49, dim]. images: int64 [n], which; None for all."""
    found = []
    for low in range(0, features.images if images is None else len(images), AT_ONCE):
        rows = slice(low, low + AT_ONCE) if images is None else images[low : low + AT_ONCE]
        seen = inputs(as_float(features.cells[WHOLE, rows]), as_float(features.whole[WHOLE, rows]))
        found.append(scorer.regions(*seen))
    return torch.cat(found)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def fusion_of(
    scorer: Scorer, features: Features, texts: NDArray[np.int64], images: NDArray[np.int64], regions: torch.Tensor
) -> NDArray[np.float32]:
    """The scorer's logits of pairs of a text and an image, float32 of their common shape. texts, images: int64 rows,
    which are broadcast together. regions: of all images."""
    texts, images = np.broadcast_arrays(texts, images)
    shape, texts, images = texts.shape, texts.ravel(), images.ravel()
    found = np.zeros(len(texts), np.float32)
    lengths = features.starts[texts + 1] - features.starts[texts]
    in_turn = np.lexsort((texts, lengths))  # texts of one length, and pairs of one text, at once
    for low in range(0, len(in_turn), PAIRS_AT_ONCE):
        pairs = in_turn[low : low + PAIRS_AT_ONCE]
        some, text = np.unique(texts[pairs], return_inverse=True)
        words, _ = features.words_of(some)
        found[pairs] = scorer.reader.of_pairs(words, on_device(text), regions[images[pairs]]).cpu().numpy()
    return found.reshape(shape)


def side_by_side(members: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The members' embeddings as one, of unit norm, whose inner product is the mean of theirs."""
    return np.concatenate(members, axis=1) / np.float32(math.sqrt(len(members)))


def first_both_ways(
    images: NDArray[np.float32], texts: NDArray[np.float32], image_of_text: NDArray[np.int64]
) -> dict[str, float]:
    """R@1 by similarity of every text among the images, and of every image among the texts, 0 to 1. Embeddings [n, dim]
    of unit norm."""
    to_image, to_text = caption_relevance(image_of_text)
    return {
        "text -> image": float(success_at(streamed_ranks(texts, images, to_image), 1).mean()),
        "image -> text": float(success_at(streamed_ranks(images, texts, to_text), 1).mean()),
    }
