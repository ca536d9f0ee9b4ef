"""The weights of similarity and fusion, and the probability that they stand for, fitted on a validation set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

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
    """to_image, to_text: fitted on the candidates of all captions, and of all images. pairs: reliability of the match
    of all candidates of captions, those of one half of the images by a calibration fitted on the other half, both ways.
    first: the same of each caption's first hit alone, since nearly all pairs are far from matching, and easily
    judged."""

    to_image: Calibration
    to_text: Calibration
    pairs: Reliability
    first: Reliability


@torch.inference_mode()  # type: ignore[untyped-decorator]
def calibrate(model: Model, embedder: Embedder | None, features: Features) -> Fitted:
    """On every caption of a validation set with its candidates, as the engine would have them, and every image with
    its own, as an evaluation would; but for the rounding of `IntegerReader`.

    Raises `CrosslookError` where no image is among the candidates of its captions."""
    members = [
        [torch.from_numpy(each) for each in side] for side in embed(model.inputs, model.heads, features, towers=True)
    ]
    if embedder is None:  # the towers' own embeddings
        images, texts = members[0][-1].numpy(), members[1][-1].numpy()
    else:
        images = embedder.images(members[0]).numpy()
        texts = embedder.texts(members[1], model.heads.known(members[1][-1])).numpy()
    of_scorer = model.scorer.regions
    regions = of_scorer.restored(of_scorer.stored(regions_of(model.inputs, model.scorer, features)))
    similarities, candidates = nearest(texts, [images], [None], min(CANDIDATES, len(images)))
    fusion = fusion_of(model.scorer, features, np.arange(len(texts))[:, None], candidates, regions)
    is_match = candidates == features.image_of_text[:, None]
    asking = np.arange(len(images))[:, None]
    similarities_back, captions = nearest(images, [texts], [None], min(CANDIDATES, len(texts)))
    fusion_back = fusion_of(model.scorer, features, captions, asking, regions)
    is_own = features.image_of_text[captions] == asking
    held_out = np.zeros(similarities.shape)
    halves = features.image_of_text % 2 == 0, features.image_of_text % 2 == 1
    if not all(is_match[half].any() for half in halves) or not is_own.any():
        raise CrosslookError("hardly any dev image is near its own captions: there is nothing to calibrate by")
    for half in halves:
        found = fit_lists(similarities[half], fusion[half], is_match[half])
        held_out[~half] = matches(found.logits(similarities[~half], fusion[~half]))
    first = held_out.argmax(axis=1)[:, None]
    of_first = np.take_along_axis(held_out, first, axis=1), np.take_along_axis(is_match, first, axis=1)
    return Fitted(
        fit_lists(similarities, fusion, is_match),
        fit_lists(similarities_back, fusion_back, is_own, np.diff(features.starts)[captions]),
        reliability(held_out, is_match),
        reliability(of_first[0], of_first[1]),
    )
