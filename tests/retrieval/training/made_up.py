"""Made-up features that have something to learn, and settings small enough for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from retrieval.training.data.features import Features
    from retrieval.training.learning.settings import TrainSettings


def made_up(images: int, *, views: int = 1, captions: int = 2, seed: int = 0, noise: float = 10.0) -> Features:
    """Images whose cells and captions' tokens both carry the same twelve numbers, through fixed random maps. Every
    caption has three tokens."""
    from retrieval.training.data.features import Features
    from retrieval.training.data.sizes import CELLS, CHANNELS

    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    to_cells, to_tokens = fixed.normal(size=(12, CHANNELS)), fixed.normal(size=(12, 384)) / 20
    meaning = rng.normal(size=(images, 12))
    blurred = (meaning @ to_cells) + noise * rng.normal(size=(views, images, CHANNELS))
    cells = np.repeat(blurred[:, :, None], CELLS, axis=2)
    owners = np.repeat(np.arange(images), captions)
    texts = meaning[owners] @ to_tokens + 0.01 * rng.normal(size=(len(owners), 384))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return Features(
        cells=cells.astype(np.float16),
        global_features=rng.normal(size=(views, images, 1000)).astype(np.float16),
        text_embeddings=texts.astype(np.float16),
        tokens=np.repeat(np.concatenate([texts, 20 * texts], axis=1), 3, axis=0).astype(np.float16),
        starts=np.arange(0, 3 * len(owners) + 1, 3),
        image_of_text=owners,
        vocabulary_ids=np.repeat(owners % 5, 3),
    )


def settings(**changes: Any) -> TrainSettings:
    """Of a small model that learns in seconds. changes: of `TrainSettings`; epochs and patience are of both stages."""
    from retrieval.training.learning.schedule import Schedule
    from retrieval.training.learning.settings import TrainSettings
    from retrieval.training.model.heads import HeadSettings
    from retrieval.training.model.model import ModelSettings
    from retrieval.training.model.reader import ReaderSettings
    from retrieval.training.model.regions import RegionSettings

    small = ModelSettings(
        HeadSettings(ensemble=2, hidden=64, region_dim=32, token_dim=32, dropout=0.1),
        RegionSettings(dim=32, dropout=0.1),
        ReaderSettings(heads=4, dropout=0.1),
    )
    of_both = {name: changes.pop(name) for name in ("epochs", "patience") if name in changes}
    common: dict[str, Any] = {"epochs": 8, "captions": 2, "average": 0.8}
    heads = Schedule(**(common | {"batch": 40} | of_both))
    scorer = Schedule(**(common | {"batch": 20, "learning_rate": 3e-3} | of_both))
    defaults: dict[str, Any] = {
        "model": small,
        "softness": 0.0,
        "heads": heads,
        "scorer": scorer,
        "match_from": 0.0,
    }
    return TrainSettings(**(defaults | changes))


def classes() -> NDArray[np.float32]:
    """Class embeddings [1000, 384], unit norm."""
    rows = np.random.default_rng(5).normal(size=(1000, 384)).astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
