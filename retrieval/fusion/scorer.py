"""The trained fusion scorer at query time, on ONNX Runtime: the network that `retrieval.training.model.reader` trains
and describes.

It is a language model of captions whose tokens attend to the regions of an image. Its output, called fusion, is how
much likelier the image makes the query: exp(s) * (log p(text | image) - prior * log p(text)), with a learnt scale and
prior (equation 6 there)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.calibration import Calibration
from retrieval.encoders.base import QueryFeatures
from retrieval.encoders.runtime import once, open_session
from retrieval.fusion.base import Candidates, EncodedQuery, Evidence, TwoWayLogits

SCORER = "scorer.onnx"
EXPLAINER = "explainer.onnx"
IMAGES_AT_ONCE = 100
SPECIAL_TOKENS = 2  # [CLS] and [SEP], which every text has


class FusionScorer:
    """The scorer in a model directory. Its match logit is a * similarity + b * fusion + c, fitted on a validation set,
    with other weights for ranking texts (see `Calibration`).

    folder: the model directory. Raises `CrosslookError` for one that an older version wrote, or that is damaged."""

    reranks = True
    calibrated = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            weights = json.loads((folder / "config.json").read_text(encoding="utf-8"))["calibration"]
            if "to_image" not in weights:
                raise CrosslookError(f"{folder} was written by an older version: train it again")
            self.to_image, self.to_text = Calibration(**weights["to_image"]), Calibration(**weights["to_text"])
        except (ValueError, KeyError, TypeError) as error:
            raise CrosslookError(f"{folder}/config.json is damaged: train the model again") from error

    @once
    def _session(self) -> Any:
        return open_session(self.folder / SCORER)

    @once
    def _explainer(self) -> Any:
        return open_session(self.folder / EXPLAINER)

    def load(self) -> None:
        _ = self._session

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        return self.to_image.logits(candidates.similarities, self._fusion(query, candidates))

    def score_both_ways(self, query: EncodedQuery, candidates: Candidates) -> TwoWayLogits:
        similarities, fusion = candidates.similarities, self._fusion(query, candidates)
        length = int(query.features.mask.sum())
        to_text = self.to_text.logits(similarities, fusion, length)
        return TwoWayLogits(self.to_image.logits(similarities, fusion), to_text)

    def explain(self, query: EncodedQuery, similarity: np.float32, regions: NDArray[Any]) -> Evidence | None:
        if not (self.folder / EXPLAINER).is_file():  # of a scorer for another encoder
            return None
        fusion, lost = self._explainer.run(["fusion", "evidence"], _inputs(query.features, regions))
        return Evidence(float(self.to_image.logits(similarity, float(fusion))), float(fusion), lost)

    def _fusion(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        query.query.only_text("the fusion scorer")
        if not len(candidates):
            return np.zeros(0, np.float32)
        return self.fusion(query.features, candidates.regions())

    def fusion(self, features: QueryFeatures, regions: NDArray[Any]) -> NDArray[np.float32]:
        """float32 [n]; zeros for a text without words, which no image makes likelier. features: of one text. regions:
        [n, regions, region_dim]."""
        if not len(regions) or features.mask[0].sum() <= SPECIAL_TOKENS:
            return np.zeros(len(regions), np.float32)
        batches = [regions[low : low + IMAGES_AT_ONCE] for low in range(0, len(regions), IMAGES_AT_ONCE)]
        return np.concatenate([self._session.run(["fusion"], _inputs(features, batch))[0] for batch in batches])


def _inputs(features: QueryFeatures, regions: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {"words": features.tokens[0][features.mask[0]], "regions": np.ascontiguousarray(regions)}
