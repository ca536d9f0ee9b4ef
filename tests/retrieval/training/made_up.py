"""Made-up features that have something to learn, and settings small enough for them."""

from __future__ import annotations

import numpy as np


def made_up(images, *, views=1, captions=2, seed=0, noise=10.0):
    """Images whose cells and captions' words both carry the same few numbers, through fixed random maps."""
    from retrieval.training.data.features import Features
    from retrieval.training.model.cells import CELLS, CHANNELS

    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    to_cells, to_words = fixed.normal(size=(12, CHANNELS)), fixed.normal(size=(12, 384)) / 20
    meaning = rng.normal(size=(images, 12))
    blurred = (meaning @ to_cells) + noise * rng.normal(size=(views, images, CHANNELS))
    cells = np.repeat(blurred[:, :, None], CELLS, axis=2)
    owners = np.repeat(np.arange(images), captions)
    texts = meaning[owners] @ to_words + 0.01 * rng.normal(size=(len(owners), 384))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return Features(
        cells.astype(np.float16),
        rng.normal(size=(views, images, 1000)).astype(np.float16),
        texts.astype(np.float16),
        np.repeat(np.concatenate([texts, 20 * texts], axis=1), 3, axis=0).astype(np.float16),
        np.arange(0, 3 * len(owners) + 1, 3),
        owners,
        np.repeat(owners % 5, 3),
    )


def settings(**changes):
    from retrieval.training.learning.settings import Schedule, TrainSettings
    from retrieval.training.model.heads import HeadSettings
    from retrieval.training.model.model import ModelSettings
    from retrieval.training.model.reader import ReaderSettings
    from retrieval.training.model.regions import RegionSettings

    small = ModelSettings(
        HeadSettings(members=2, hidden=64, regions=32, words=32, dropout=0.1),
        RegionSettings(dim=32, dropout=0.1),
        ReaderSettings(heads=4, dropout=0.1),
    )
    of_both = {name: changes.pop(name) for name in ("epochs", "patience") if name in changes}
    usual = {"epochs": 8, "captions": 2, "average": 0.8}
    heads = Schedule(**(usual | {"batch": 40} | of_both))
    scorer = Schedule(**(usual | {"batch": 20, "learning_rate": 3e-3} | of_both))
    return TrainSettings(
        **({"model": small, "softness": 0.0, "heads": heads, "scorer": scorer, "match_from": 0.0} | changes)
    )


def classes():
    found = np.random.default_rng(5).normal(size=(1000, 384)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
