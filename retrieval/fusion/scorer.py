"""The trained fusion scorer at query time, on ONNX Runtime.

A language model of captions whose words attend to the regions of an image: its logit is how much likelier the image
makes the query. It was trained, and is described, in `retrieval.training.model.reader`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.calibration import Calibration
from retrieval.encoders.base import TextFeatures
from retrieval.encoders.runtime import once, open_session

SCORER = "scorer.onnx"
EXPLAINER = "explainer.onnx"
IMAGES_AT_ONCE = 100
MARKS = 2  # of the begin and the end of a text


@dataclass(frozen=True)
class Evidence:
    """Which regions of one image speak for which word of a text. fusion: the scorer's logit for the pair, before
    calibration. lost: float32 [words, regions], how much of that logit each word would lose if nothing could attend to
    the region."""

    fusion: float
    lost: NDArray[np.float32]

    @property
    def heat(self) -> NDArray[np.float32]:
        """float32 [words, regions], 0 and up, in units of the logit: what speaks for a match. The gradient of the logit
        by the attention (Chefer et al. 2021, "Generic Attention-model Explainability", and the maps of ALBEF and BLIP)
        estimates this; here it is measured."""
        return np.maximum(self.lost, 0)


class FusionScorer:
    """The scorer in a model directory. Its logits are a * similarity + b * fusion + c, calibrated on a validation set.
    Safe to use from several threads.

    Raises `CrosslookError` for a directory that an older version wrote, or that is damaged."""

    calibrated = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["calibration"]
            if "to_image" not in found:
                raise CrosslookError(f"{folder} was written by an older version: train it again")
            self.to_image, self.to_text = Calibration(**found["to_image"]), Calibration(**found["to_text"])
        except (ValueError, KeyError, TypeError) as error:
            raise CrosslookError(f"{folder}/config.json is damaged: train the model again") from error

    @once
    def _session(self) -> Any:
        return open_session(self._folder / SCORER)

    @once
    def _explainer(self) -> Any:
        return open_session(self._folder / EXPLAINER)

    def load(self) -> None:
        _ = self._session

    def fusion(self, text: TextFeatures, tokens: NDArray[Any]) -> NDArray[np.float32]:
        if text.mask[0].sum() <= MARKS:
            return np.zeros(len(tokens), np.float32)  # no words, which no image makes likelier
        parts = [tokens[low : low + IMAGES_AT_ONCE] for low in range(0, len(tokens), IMAGES_AT_ONCE)]
        return np.concatenate([self._session.run(["fusion"], self._inputs(text, part))[0] for part in parts])

    def evidence(self, text: TextFeatures, tokens: NDArray[Any]) -> Evidence:
        """Of one text and one image, whose tokens are [regions, token_dim]."""
        fusion, lost = self._explainer.run(["fusion", "evidence"], self._inputs(text, tokens))
        return Evidence(float(fusion), lost)

    @staticmethod
    def _inputs(text: TextFeatures, tokens: NDArray[Any]) -> dict[str, NDArray[Any]]:
        words = text.tokens[0][text.mask[0]]
        return {"words": words, "regions": np.ascontiguousarray(tokens)}
