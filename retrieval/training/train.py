"""Heads, then the scorer, on frozen towers' features."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.training.batches import as_float
from retrieval.training.features import WHOLE, Features
from retrieval.training.heads import input_statistics
from retrieval.training.heads_stage import HeadsStage
from retrieval.training.loop import Epoch, learn
from retrieval.training.model import Model
from retrieval.training.scorer_stage import ScorerStage
from retrieval.training.settings import TrainSettings

SAMPLED = 4  # every so many images are enough for the statistics of their cells


def train(
    features: Features,
    dev: Features,
    class_embeddings: NDArray[np.float32],
    out: Path,
    settings: TrainSettings,
    observe: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Model, list[Epoch]]:
    """Train on `features`, keep what is best on `dev`, and return it with the history of all stages.

    The state after every epoch is kept in the folder `out`, see `learn`. Raises `CrosslookError` when `out` holds a run
    of other settings or data."""
    if not len(features.vocabulary):
        raise CrosslookError("hardly any word is in several captions, so that none can be learnt: give more captions")
    torch.manual_seed(settings.seed)
    statistics = input_statistics(as_float(features.cells[WHOLE, ::SAMPLED]), as_float(features.whole[WHOLE]))
    classes = torch.from_numpy(class_embeddings).to(torch.get_default_device())
    model = Model(classes, statistics, features.vocabulary, settings.model).to(torch.get_default_device())
    about = {
        "settings": asdict(settings),
        "images": features.images,
        "texts": len(features.texts),
        "views": len(features.cells),
        "data": [features.key, dev.key],
    }
    key = json.dumps(about, sort_keys=True)
    history: list[Epoch] = []
    if settings.itc and settings.model.heads.members:
        stage = HeadsStage(model.heads, model.inputs, features, dev, settings, key)
        history += learn(stage, out, settings.seed, observe)
    if settings.itm or settings.lm:
        model.heads.eval()
        history += learn(ScorerStage(model, features, dev, settings, key), out, settings.seed, observe)
    return model.eval(), history
