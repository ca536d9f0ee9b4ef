"""The weights of similarity and fusion, and the probability that they stand for, fitted on a validation set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from indexes.exact import nearest
from retrieval.calibration import Calibration, Reliability, fit, matches, reliability
from retrieval.training.features import Features
from retrieval.training.loop import embed, fusion_of, regions_of
from retrieval.training.scorer import quantize

if TYPE_CHECKING:
    from retrieval.training.embedder import Embedder
    from retrieval.training.model import Model

CANDIDATES = 100


@dataclass(frozen=True)
class Fitted:
    """calibration: fitted on all candidate pairs. pairs: reliability of the match of all of them, those of one half of
    the images by a calibration fitted on the other half, both ways. first: the same of each caption's first hit alone,
    since nearly all pairs are far from matching, and easily judged."""

    calibration: Calibration
    pairs: Reliability
    first: Reliability


@torch.inference_mode()  # type: ignore[untyped-decorator]
def calibrate(model: Model, embedder: Embedder, features: Features) -> Fitted:
    """On every caption of a validation set with its candidates, as the engine would have them."""
    members = [[torch.from_numpy(each) for each in side] for side in embed(model, features)]
    images, texts = embedder.images(members[0]).numpy(), embedder.texts(members[1]).numpy()
    similarities, candidates = nearest(texts, [images], [None], min(CANDIDATES, len(images)))
    regions = torch.nn.functional.normalize(quantize(regions_of(model, features)).float(), dim=-1)
    fusion = fusion_of(model, features, np.arange(len(texts)), candidates, regions).ravel()
    is_match = (candidates == features.image_of_text[:, None]).ravel()
    half = np.repeat(features.image_of_text % 2 == 0, candidates.shape[1])
    similarities = similarities.ravel()
    held_out = np.zeros(similarities.shape)
    for fitted, judged in ((half, ~half), (~half, half)):
        found = fit(similarities[fitted], fusion[fitted], is_match[fitted])
        held_out[judged] = matches(found.logits(similarities[judged], fusion[judged]))
    by_caption = held_out.reshape(candidates.shape)
    hit = by_caption.argmax(axis=1)[:, None]
    hit_match = np.take_along_axis(by_caption, hit, axis=1)
    hit_is_match = np.take_along_axis(is_match.reshape(candidates.shape), hit, axis=1)
    calibration = fit(similarities, fusion, is_match)
    return Fitted(calibration, reliability(held_out, is_match), reliability(hit_match, hit_is_match))
