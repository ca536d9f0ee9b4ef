"""Short training runs of `lite` on the sample photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from retrieval.captions import CaptionSet
from retrieval.encoders.lite import LiteEncoder
from retrieval.progress import Epoch

if TYPE_CHECKING:
    from retrieval.training.learning.settings import TrainSettings


def one_epoch(**changes: Any) -> TrainSettings:
    """The usual settings but for one epoch of each stage."""
    from retrieval.training.learning.settings import TrainSettings

    defaults = TrainSettings()
    return replace(
        defaults,
        heads=replace(defaults.heads, epochs=1),
        scorer=replace(defaults.scorer, epochs=1, batch=12),
        **changes,
    )


def train_once(captions: CaptionSet, out: Path, cache: Path, **changes: Any) -> list[Epoch]:
    """Train heads and scorer of `lite` for an epoch, and write the model directory `out`."""
    from retrieval.training.run import train_model

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("retrieval.training.fitting.estimate.STEPS", 50)  # rough, as one epoch is
        return train_model([captions], LiteEncoder(device="cpu"), out, one_epoch(**changes), views=1, cache=cache)
