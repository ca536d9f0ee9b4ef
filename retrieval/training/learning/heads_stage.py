"""The stage in which the heads learn, by the contrast of images and captions (ITC)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from retrieval.training import accelerator
from retrieval.training.data.batches import Batches, Drawn, endless, part_of_batch, steps_an_epoch, take
from retrieval.training.inference import embed, recall_at_1, side_by_side
from retrieval.training.learning.losses import contrast, softness_of
from retrieval.training.stored_names import stored_name

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.accelerator import Batch
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

    def draw(self, rng: np.random.Generator) -> Drawn:
        images = take(self._order, self.batch)
        texts = self._batches.texts(images, self.schedule.captions, rng).ravel()
        return Drawn(images, self._batches.draw_views(images, rng), texts)

    def load(self, drawn: Drawn) -> Batch:
        tokens, mask = self._batches.features.tokens_of(drawn.texts)
        by_tower = self._batches.features.rows_of("text_embeddings", drawn.texts)
        return self._batches.views(drawn) | {"texts": by_tower, "tokens": tokens, "mask": mask}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean contrast over the ensemble."""
        count, by_tower = len(batch["cells"]), batch["texts"]
        image_of_text = torch.arange(count).repeat_interleave(self.schedule.captions)
        of_images = self.module.images(batch["cells"], batch["global_features"], batch["unstandardised"])
        of_texts = self.module.texts(by_tower, batch["tokens"], batch["mask"])
        weight, temperature = self.settings.softness, self.settings.softness_temperature
        with accelerator.full_precision():
            soft = softness_of(by_tower, image_of_text, count, weight, temperature) if weight else None
            losses = [
                contrast(scale * text.float() @ image.float().T, image_of_text, soft)
                for scale, text, image in zip(self.module.log_scale.exp(), of_texts, of_images, strict=True)
            ]
            return {"itc": torch.stack(losses).mean()}

    def spare_memory(self) -> bool:
        """False: the heads are small."""
        return False

    def clamp(self) -> None:
        self.module.log_scale.clamp_(max=math.log(LARGEST_SCALE))

    def judge(self, module: Heads) -> dict[str, float]:
        images, texts = (side_by_side(embeddings) for embeddings in embed(self.inputs, module, self.dev))
        return recall_at_1(images, texts, self.dev.image_of_text)
