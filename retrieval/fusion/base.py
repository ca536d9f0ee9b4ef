"""What a scorer is: a query and its candidates in, match logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.base import TextFeatures
from retrieval.images import Photo


class Scorer(Protocol):
    """A fusion scorer: looks at the words of one query and the stored regions of its candidates. `calibrated`: whether
    the sigmoid of its logits is a probability that was fitted on a validation set."""

    calibrated: bool

    def score(self, text: TextFeatures, tokens: NDArray[Any], similarities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Match logits, float32 [n]. text: of one query. tokens: [n, regions, token_dim]. similarities: float32 [n]."""
        ...


@runtime_checkable
class PhotoScorer(Protocol):
    """A scorer that has to see the images again. `image_size`: the side in pixels that it needs."""

    calibrated: bool
    image_size: int

    def score_photos(self, text: str, photos: Sequence[Photo]) -> NDArray[np.float32]:
        """Match logits, float32 [n]."""
        ...
