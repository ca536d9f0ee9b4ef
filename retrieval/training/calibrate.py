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
from retrieval.training.applying import embed, fusion_of, regions_of
from retrieval.training.features import Features
from retrieval.training.regions import quantize

if TYPE_CHECKING:
    from retrieval.training.embedder import Embedder
    from retrieval.training.model import Model


@dataclass(frozen=True)
class Fitted:
    """calibration: fitted on all candidate pairs. pairs: reliability of the match of all of them, those of one half of
    the images by a calibration fitted on the other half, both ways. first: the same of each caption's first hit alone,
    since nearly all pairs are far from matching, and easily judged."""

    calibration: Calibration
    pairs: Reliability
    first: Reliability


@torch.inference_mode()  # type: ignore[untyped-decorator]
def calibrate(model: Model, embedder: Embedder | None, features: Features) -> Fitted:
    """On every caption of a validation set with its candidates, as the engine would have them.

    Raises `CrosslookError` where no image is among the candidates of its captions."""
    members = [
        [torch.from_numpy(each) for each in side] for side in embed(model.inputs, model.heads, features, towers=True)
    ]
    if embedder is None:  # the towers' own embeddings
        images, texts = members[0][-1].numpy(), members[1][-1].numpy()
    else:
        images = embedder.images(members[0]).numpy()
        texts = embedder.texts(members[1], model.heads.known(members[1][-1])).numpy()
    similarities, candidates = nearest(texts, [images], [None], min(CANDIDATES, len(images)))
    stored = quantize(regions_of(model.inputs, model.scorer, features)).float()
    regions = torch.nn.functional.normalize(stored, dim=-1)
    fusion = fusion_of(model.scorer, features, np.arange(len(texts)), candidates, regions)
    is_match = candidates == features.image_of_text[:, None]
    held_out = np.zeros(similarities.shape)
    halves = features.image_of_text % 2 == 0, features.image_of_text % 2 == 1
    if not all(is_match[half].any() for half in halves):
        raise CrosslookError("hardly any dev image is near its own captions: there is nothing to calibrate by")
    for half in halves:
        found = fit_lists(similarities[half], fusion[half], is_match[half])
        held_out[~half] = matches(found.logits(similarities[~half], fusion[~half]))
    first = held_out.argmax(axis=1)[:, None]
    of_first = np.take_along_axis(held_out, first, axis=1), np.take_along_axis(is_match, first, axis=1)
    calibration = fit_lists(similarities, fusion, is_match)
    return Fitted(calibration, reliability(held_out, is_match), reliability(of_first[0], of_first[1]))
