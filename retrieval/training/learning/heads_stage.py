"""The stage in which the heads learn, by the contrast of images and captions (ITC)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from retrieval.training.data.batches import Batches, as_float, endless, part_of_batch, steps_an_epoch, take
from retrieval.training.inference import embed, recall_at_1, side_by_side
from retrieval.training.learning.losses import contrast, softness_of
from retrieval.training.parallel import on_device
from retrieval.training.stored_names import stored_name

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.data.features import Features
    from retrieval.training.data.inputs import Inputs
    from retrieval.training.learning.settings import TrainSettings
    from retrieval.training.model.heads import Heads

LARGEST_SCALE = 60.0  # inverse of the smallest temperature


class HeadsStage:
    """Judged by R@1 on dev, by similarity, both ways."""

    name = "heads"
    stored_name = staticmethod(stored_name)

    def __init__(
        self, heads: Heads, inputs: Inputs, features: Features, dev: Features, settings: TrainSettings, key: str
    ) -> None:
        self.module = heads
        self.inputs = inputs
        self.dev = dev
        self.settings = settings
        self.schedule = settings.heads
        self.batch = part_of_batch(self.schedule.batch, features.image_count)
        self.steps = steps_an_epoch(features.image_count, self.batch)
        self.weights = {"itc": settings.itc}
        self.patient_from = 0
        self.key = key
        self._batches = Batches(features, inputs)
        self._order: Iterator[int] = iter(())

    def begin(self, number: int, rng: np.random.Generator) -> None:
        self._order = endless(lambda: rng.permutation(self._batches.features.image_count))

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """The mean contrast over the ensemble."""
        images = take(self._order, self.batch)
        features, captions = self._batches.features, self.schedule.captions
        texts = self._batches.texts(images, captions, rng).ravel()
        image_of_text = on_device(np.repeat(np.arange(len(images)), captions))
        by_tower = as_float(features.text_embeddings[texts])
        of_images = self.module.images(*self._batches.views(images, rng))
        of_texts = self.module.texts(by_tower, *features.tokens_of(texts))
        weight, temperature = self.settings.softness, self.settings.softness_temperature
        soft = softness_of(by_tower, image_of_text, len(images), weight, temperature) if weight else None
        losses = [
            contrast(scale * text @ image.T, image_of_text, soft)
            for scale, text, image in zip(self.module.log_scale.exp(), of_texts, of_images, strict=True)
        ]
        return {"itc": torch.stack(losses).mean()}

    def clamp(self) -> None:
        self.module.log_scale.clamp_(max=math.log(LARGEST_SCALE))

    def judge(self, module: Heads) -> dict[str, float]:
        images, texts = (side_by_side(embeddings) for embeddings in embed(self.inputs, module, self.dev))
        return recall_at_1(images, texts, self.dev.image_of_text)
