"""Fit the weights of similarity and fusion, and the probability that they stand for, on the dev images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from indexes.exact import nearest
from retrieval.calibration import Calibration, Reliability, fit_lists, matches, reliability
from retrieval.engine import CANDIDATES
from retrieval.training.data.features import Features
from retrieval.training.inference import embed, fusion_of, regions_of

if TYPE_CHECKING:
    from retrieval.training.fitting.embedder import Embedder
    from retrieval.training.model.model import Model


@dataclass(frozen=True)
class Fitted:
    """to_image, to_text: fitted on the candidates of all captions, and of all images.

    pairs: reliability of `match` over all candidates of the captions; those of one half of the images are judged by a
    calibration fitted on the other half, both ways. first: the same over each caption's first hit alone. Nearly all
    pairs are far from matching and easy to judge, so that `pairs` says little of what people see."""

    to_image: Calibration
    to_text: Calibration
    pairs: Reliability
    first: Reliability


@torch.inference_mode()  # type: ignore[untyped-decorator]
def calibrate(model: Model, embedder: Embedder | None, features: Features) -> Fitted:
    """Fit on every caption with its candidates, as the engine finds them, and on every image with its own.

    The scorer's logits are those of float32 products over int8 regions. embedder: None for the towers' own embeddings.

    Raises `CrosslookError` if no image is among the candidates of its captions."""
    images, texts = _embeddings(model, embedder, features)
    stored = model.scorer.regions.stored(regions_of(model.inputs, model.scorer, features))
    regions = model.scorer.regions.restored(stored)
    text_rows, image_rows = np.arange(len(texts))[:, None], np.arange(len(images))[:, None]
    similarities, candidates = nearest(texts, [images], [None], min(CANDIDATES, len(images)))
    fusion = fusion_of(model.scorer, features, text_rows, candidates, regions)
    is_match = candidates == features.image_of_text[:, None]
    similarities_back, captions = nearest(images, [texts], [None], min(CANDIDATES, len(texts)))
    fusion_back = fusion_of(model.scorer, features, captions, image_rows, regions)
    is_match_back = features.image_of_text[captions] == image_rows
    halves = features.image_of_text % 2 == 0, features.image_of_text % 2 == 1
    if not all(is_match[half].any() for half in halves) or not is_match_back.any():
        raise CrosslookError("hardly any dev image is near its own captions: there is nothing to calibrate by")
    held_out = np.zeros(similarities.shape)
    for half in halves:
        calibration = fit_lists(similarities[half], fusion[half], is_match[half])
        held_out[~half] = matches(calibration.logits(similarities[~half], fusion[~half]))
    first = held_out.argmax(axis=1)[:, None]
    return Fitted(
        fit_lists(similarities, fusion, is_match),
        fit_lists(similarities_back, fusion_back, is_match_back, np.diff(features.starts)[captions]),
        reliability(held_out, is_match),
        reliability(np.take_along_axis(held_out, first, axis=1), np.take_along_axis(is_match, first, axis=1)),
    )


def _embeddings(
    model: Model, embedder: Embedder | None, features: Features
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The stored embeddings of all images and of all texts, float32 [n, dim]."""
    images, texts = (
        [torch.from_numpy(part) for part in side] for side in embed(model.inputs, model.heads, features, towers=True)
    )
    if embedder is None:
        return images[-1].numpy(), texts[-1].numpy()
    familiarity = model.heads.familiarity(texts[-1])
    return embedder.images(images).numpy(), embedder.texts(texts, familiarity).numpy()
