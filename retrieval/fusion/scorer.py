"""The trained fusion scorer at query time, on ONNX Runtime.

Its logit has two parts. A query's words attend to an image's regions, each attended vector is compared with its word,
and each region with its words (the read-out of SCAN: Lee et al. 2018, "Stacked Cross Attention for Image-Text
Matching"). And a language model of captions, whose words attend to the regions too, tells how much likelier the image
makes the query. They were trained, and are described, in `retrieval.training.scorer` and `.decoder`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.calibration import Calibration
from retrieval.encoders.base import TextFeatures
from retrieval.encoders.runtime import open_session

SCORER = "scorer.onnx"
EXPLAINER = "explainer.onnx"
IMAGES_AT_ONCE = 100


@dataclass(frozen=True)
class Attention:
    """Where the words of a text look in one image. fusion: the scorer's logit for the pair, before calibration.
    weights: float32 [words, regions], those of the comparison, each row summing to one. gradient: float32 [words,
    regions], how much that logit would rise with each weight. evidence: float32 [words, regions], how much of that
    logit would be lost at each word if the reader could not look at the region."""

    fusion: float
    weights: NDArray[np.float32]
    gradient: NDArray[np.float32]
    evidence: NDArray[np.float32]

    @property
    def heat(self) -> NDArray[np.float32]:
        """float32 [words, regions], 0 and up, in units of that logit: the attention that speaks for a match. Of the
        comparison, its weights times their positive gradient (Chefer et al. 2021, "Generic Attention-model
        Explainability", and the maps of ALBEF and BLIP); of the reader, what that estimates, measured."""
        return self.weights * np.maximum(self.gradient, 0) + np.maximum(self.evidence, 0)


class FusionScorer:
    """The scorer in a model directory. Its logit is a * similarity + b * fusion + c, calibrated on a validation set."""

    calibrated = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        config = json.loads((folder / "config.json").read_text())
        self.calibration = Calibration(**config["calibration"])

    @cached_property
    def _session(self) -> Any:
        return open_session(self._folder / SCORER)

    @cached_property
    def _explainer(self) -> Any:
        return open_session(self._folder / EXPLAINER)

    def fusion(self, text: TextFeatures, tokens: NDArray[Any]) -> NDArray[np.float32]:
        """The scorer's own logits, float32 [n], which know nothing of the similarity."""
        parts = [tokens[low : low + IMAGES_AT_ONCE] for low in range(0, len(tokens), IMAGES_AT_ONCE)]
        return np.concatenate([self._session.run(["fusion"], self._inputs(text, part))[0] for part in parts])

    def score(self, text: TextFeatures, tokens: NDArray[Any], similarities: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.calibration.logits(similarities, self.fusion(text, tokens))

    def attention(self, text: TextFeatures, tokens: NDArray[Any]) -> Attention:
        """Of one text and one image, whose tokens are [regions, token_dim]."""
        outputs = ["fusion", "attention", "gradient", "evidence"]
        fusion, *maps = self._explainer.run(outputs, self._inputs(text, tokens))
        return Attention(float(fusion), *maps)

    @staticmethod
    def _inputs(text: TextFeatures, tokens: NDArray[Any]) -> dict[str, NDArray[Any]]:
        words = text.tokens[0][text.mask[0]]
        return {"words": words, "regions": np.ascontiguousarray(tokens)}
