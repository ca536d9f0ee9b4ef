"""Trains the heads and then the scorer, on the features of frozen towers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.progress import SILENT, Epoch, Observer
from retrieval.training import accelerator
from retrieval.training.data.features import Features
from retrieval.training.data.inputs import input_statistics
from retrieval.training.data.keeping import kept_on_device
from retrieval.training.data.views import ORIGINAL
from retrieval.training.learning.heads_stage import HeadsStage
from retrieval.training.learning.loop import learn, only_stages
from retrieval.training.learning.scorer_stage import JUDGED, PARAMETERS, ScorerStage
from retrieval.training.learning.settings import TrainSettings
from retrieval.training.model.model import Model
from retrieval.training.parallel import current_device, on_device
from retrieval.training.stored_names import stored_settings

# Settings that do not touch the heads, by their stored names.
NOT_OF_HEADS = ("itm", "lm", "match_from", "group", "hard", "scorer", "towers")
SAMPLED = 4  # every fourth image is enough for the statistics of the cells


def train(
    features: Features,
    dev: Features,
    class_embeddings: NDArray[np.float32],
    out: Path,
    settings: TrainSettings,
    observer: Observer = SILENT,
) -> tuple[Model, list[Epoch]]:
    """Train on `features`, keep what is best on `dev`, and return it with the history of all stages.

    class_embeddings: float32 [1000, 384], or [0, 384] for a model without heads. out: folder of the checkpoints, see
    `learn`. Raises `CrosslookError` if `out` holds a run with other settings or data."""
    if not len(features.vocabulary):
        raise CrosslookError("hardly any word is in several captions, so that none can be learnt: give more captions")
    torch.manual_seed(settings.seed)
    if accelerator.acceleration().keeps_features:
        features, dev = kept_on_device([features, dev], accelerator.room())
    cells = features.rows_of("cells", ORIGINAL, slice(None, None, SAMPLED))
    statistics = input_statistics(cells, features.rows_of("global_features", ORIGINAL))
    model = Model(on_device(class_embeddings), statistics, features.vocabulary, settings.model).to(current_device())
    data = {
        "images": features.image_count,
        "texts": features.text_count,
        "views": len(features.cells),
        "keys": [part.key + part.contents for part in (features, dev)],
    }
    all_settings = stored_settings(settings)
    of_heads = {name: value for name, value in all_settings.items() if name not in NOT_OF_HEADS}
    of_heads["model"] = all_settings["model"]["heads"]
    history: list[Epoch] = []
    has_heads = settings.itc > 0 and settings.model.heads.ensemble > 0
    only_stages(out, ["heads", "scorer"] if has_heads else ["scorer"])
    if has_heads:
        key = json.dumps([of_heads, data], sort_keys=True)
        stage = HeadsStage(model.heads, model.inputs, features, dev, settings, key)
        history += learn(stage, out, settings.seed, observer)
    if settings.itm or settings.lm:
        model.heads.eval()
        key = json.dumps([all_settings, data, JUDGED, PARAMETERS], sort_keys=True)
        history += learn(ScorerStage(model, features, dev, settings, key), out, settings.seed, observer)
    return model.eval(), history
