"""Ranking without a second stage."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.fusion.base import Candidates, EncodedQuery, TwoWayLogits


class BySimilarity:
    """The scorer that adds nothing to the first stage: logit = similarity."""

    reranks = False
    calibrated = False

    def load(self) -> None:
        pass

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        return candidates.similarities

    def score_both_ways(self, query: EncodedQuery, candidates: Candidates) -> TwoWayLogits:
        return TwoWayLogits(candidates.similarities, candidates.similarities)

    def explain(self, query: EncodedQuery, similarity: np.float32, regions: NDArray[Any]) -> None:
        """None: an embedding has no regions."""
