"""What a scorer is: a query and its candidates in, match logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from retrieval.calibration import Calibration
from retrieval.encoders.base import TextFeatures
from retrieval.images import Photo


class Scorer(Protocol):
    """A fusion scorer: looks at the words of one query and the stored regions of its candidates. to_image: what makes a
    match logit of similarity and fusion where images are ranked for a text; to_text: where texts are for an image.
    `calibrated`: whether the sigmoid of these logits is a probability that was fitted on a validation set."""

    calibrated: bool
    to_image: Calibration
    to_text: Calibration

    def load(self) -> None:
        """Read its files now, not when they are first needed. Raises what `fusion` would."""
        ...

    def fusion(self, text: TextFeatures, tokens: NDArray[Any]) -> NDArray[np.float32]:
        """The scorer's own logits, float32 [n], which know nothing of the similarity. text: of one query. tokens:
        [n, regions, token_dim]."""
        ...


@runtime_checkable
class PhotoScorer(Protocol):
    """A scorer that has to see the images again. `image_size`: the side in pixels that it needs."""

    calibrated: bool
    image_size: int

    def score_photos(self, text: str, photos: Sequence[Photo]) -> NDArray[np.float32]:
        """Match logits, float32 [n]."""
        ...
