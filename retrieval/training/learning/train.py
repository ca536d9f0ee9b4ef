"""Heads, then the scorer, on frozen towers' features."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.training.data.batches import as_float
from retrieval.training.data.features import Features
from retrieval.training.data.views import WHOLE
from retrieval.training.learning.heads_stage import HeadsStage
from retrieval.training.learning.loop import learn, only_stages
from retrieval.training.learning.parallel import current_device, on_device
from retrieval.training.learning.scorer_stage import JUDGED, PARAMETERS, ScorerStage
from retrieval.training.learning.settings import TrainSettings
from retrieval.training.model.heads import input_statistics
from retrieval.training.model.model import Model
from retrieval.training.watching import UNWATCHED, Epoch, Watcher

OF_OTHERS = ("itm", "lm", "match_from", "group", "hard", "scorer", "towers")  # on which the heads do not depend
SAMPLED = 4  # every so many images are enough for the statistics of their cells


def train(
    features: Features,
    dev: Features,
    class_embeddings: NDArray[np.float32],
    out: Path,
    settings: TrainSettings,
    watcher: Watcher = UNWATCHED,
) -> tuple[Model, list[Epoch]]:
    """Train on `features`, keep what is best on `dev`, and return it with the history of all stages.

    The state after every epoch is kept in the folder `out`, see `learn`. Raises `CrosslookError` when `out` holds a run
    of other settings or data."""
    if not len(features.vocabulary):
        raise CrosslookError("hardly any word is in several captions, so that none can be learnt: give more captions")
    torch.manual_seed(settings.seed)
    statistics = input_statistics(as_float(features.cells[WHOLE, ::SAMPLED]), as_float(features.whole[WHOLE]))
    model = Model(on_device(class_embeddings), statistics, features.vocabulary, settings.model).to(current_device())
    data = {
        "images": features.images,
        "texts": len(features.texts),
        "views": len(features.cells),
        "keys": [features.key, dev.key],
    }
    everything = asdict(settings)
    of_heads = {name: value for name, value in everything.items() if name not in OF_OTHERS}
    of_heads["model"] = everything["model"]["heads"]
    history: list[Epoch] = []
    has_heads = settings.itc > 0 and settings.model.heads.members > 0
    only_stages(out, ["heads", "scorer"] if has_heads else ["scorer"])
    if has_heads:
        key = json.dumps([of_heads, data], sort_keys=True)
        stage = HeadsStage(model.heads, model.inputs, features, dev, settings, key)
        history += learn(stage, out, settings.seed, watcher)
    if settings.itm or settings.lm:
        model.heads.eval()
        key = json.dumps([everything, data, JUDGED, PARAMETERS], sort_keys=True)
        history += learn(ScorerStage(model, features, dev, settings, key), out, settings.seed, watcher)
    return model.eval(), history
