"""A small scorer that has learnt, and made-up texts for it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.retrieval.training.made_up import classes, made_up, settings

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.data.features import Features
    from retrieval.training.model.model import Model


def trained_scorer(out: Path) -> tuple[Features, Model]:
    """Features with a vocabulary of 40 tokens, and a model after two epochs on them."""
    from retrieval.training.learning.train import train

    data = made_up(200)
    data.vocabulary_ids[:] = np.arange(len(data.vocabulary_ids)) % 40
    model, _ = train(data, made_up(20, seed=1), classes(), out, settings(epochs=2))
    return data, model


def rounded_scorer(data: Features, model: Model) -> tuple[Features, Model, Tensor]:
    """A copy of the model after a rough `fit_estimate` and `fit_ranges`, and the stored regions of all images."""
    import torch

    from retrieval.training.fitting.estimate import fit_estimate
    from retrieval.training.fitting.ranges import fit_ranges
    from retrieval.training.inference import regions_of

    model = copy.deepcopy(model)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("retrieval.training.fitting.estimate.STEPS", 200)
        fit_estimate(model.scorer, model.inputs, data, seed=0)
    fit_ranges(model.scorer, model.inputs, data, seed=0)
    with torch.no_grad():
        stored = model.scorer.regions.stored(regions_of(model.inputs, model.scorer, data)).clone()
    return data, model.eval(), stored


def texts_of(data: Features, count: int = 20) -> list[Tensor]:
    """The tokens of the first captions, with an EOS, which made-up captions lack: each float [m, 768]."""
    import torch

    return [torch.nn.functional.pad(data.tokens_of(np.array([text]))[0][0], (0, 0, 0, 1)) for text in range(count)]
