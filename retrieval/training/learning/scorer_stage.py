"""The stage in which the scorer learns, after the heads: to read captions (LM), and to match (ITM) images and captions
that the heads confuse."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.exact import nearest
from retrieval.calibration import list_weights
from retrieval.training.data.batches import Batches, Drawn, endless, part_of_batch, steps_an_epoch, take
from retrieval.training.data.mining import confusable, grouped_order
from retrieval.training.inference import embed, fusion_of, regions_of, side_by_side
from retrieval.training.learning.losses import matching
from retrieval.training.model.group_reading import Packing, packing_of, read_groups
from retrieval.training.parallel import on_device
from retrieval.training.stored_names import stored_name

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.accelerator import Batch
    from retrieval.training.data.features import Features
    from retrieval.training.learning.settings import TrainSettings
    from retrieval.training.model.model import FusionNetwork, Model

DEV_CANDIDATES = 10
PACKED = ("place", "pairs", "places")  # names in a batch of what `Packing` holds
JUDGED = f"all captions, {DEV_CANDIDATES} candidates"  # part of a run's key: figures of another way cannot be compared
PARAMETERS = 2  # version of the scorer's parameters, part of a run's key: another version's checkpoint does not fit


class ScorerStage:
    """Judged by R@1 on dev after re-ranking the nearest candidates, of every caption among the images and of every
    image among the captions. Fusion is added to the similarity with the weight that ranks best."""

    name = "scorer"
    stored_name = staticmethod(stored_name)

    def __init__(self, model: Model, features: Features, dev: Features, settings: TrainSettings, key: str) -> None:
        """model: its heads have learnt."""
        self.model = model
        self.module: FusionNetwork = model.scorer
        self.settings = settings
        self.schedule = settings.scorer
        self.group = min(settings.group, features.image_count)
        batch = part_of_batch(self.schedule.batch, features.image_count)
        self.batch = max(1, batch // self.group) * self.group
        self.steps = steps_an_epoch(features.image_count, self.batch)
        self.weights = {"itm": settings.itm, "lm": settings.lm}
        last = self.schedule.epochs - 1
        reads_first = settings.itm > 0 and settings.lm > 0
        self.patient_from = min(math.ceil(settings.match_from * self.schedule.epochs), last) if reads_first else 0
        self.key = key
        self._dev = dev
        self._batches = Batches(features, model.inputs)
        self._order: Iterator[int] = iter(())
        self._matching = False
        self._neighbours = None
        if settings.itm and self.group > 1 and settings.hard:
            images, texts = (side_by_side(embeddings) for embeddings in embed(model.inputs, model.heads, features))
            self._neighbours = confusable(images, texts, features.image_of_text)
        images, texts = (side_by_side(embeddings) for embeddings in embed(model.inputs, model.heads, dev))
        text_rows, image_rows = np.arange(len(texts))[:, None], np.arange(len(images))[:, None]
        self._to_image = text_rows, *nearest(texts, [images], [None], min(DEV_CANDIDATES, len(images)))
        self._to_text = image_rows, *nearest(images, [texts], [None], min(DEV_CANDIDATES, len(texts)))

    def begin(self, number: int, rng: np.random.Generator) -> None:
        self._matching = self.settings.itm > 0 and number >= self.patient_from
        neighbours, count = self._neighbours, self._batches.features.image_count
        if neighbours is None:
            self._order = endless(lambda: rng.permutation(count))
        else:
            self._order = endless(lambda: grouped_order(neighbours, self.group, rng))

    def draw(self, rng: np.random.Generator) -> Drawn:
        images = take(self._order, self.batch)
        views = self._batches.draw_views(images, rng)
        return Drawn(images, views, self._batches.texts(images, self.schedule.captions, rng).ravel())

    def load(self, drawn: Drawn) -> Batch:
        features = self._batches.features
        tokens, _ = features.tokens_of(drawn.texts)
        ids = features.vocabulary_ids_of(drawn.texts)
        scored = features.scored_of(drawn.texts)[:, 1:][:, : self.settings.model.reader.max_tokens]
        packing = packing_of(torch.from_numpy(scored).unflatten(0, (*self._groups(), self.schedule.captions)))
        places = packing.place, packing.pairs, packing.tokens
        packed = {name: on_device(item.numpy()) for name, item in zip(PACKED, places, strict=True)}
        return self._batches.views(drawn) | {"tokens": tokens, "ids": ids} | packed

    def _groups(self) -> tuple[int, int]:
        """Groups of a batch, and images of a group. Without matching, every image is a group by itself."""
        return (self.batch // self.group, self.group) if self._matching else (self.batch, 1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """LM, and ITM in the epochs that match."""
        shape = self._groups()
        regions = self.module.regions(batch["cells"], batch["global_features"]).unflatten(0, shape)
        tokens, ids = (batch[name].unflatten(0, (*shape, self.schedule.captions)) for name in ("tokens", "ids"))
        packing = Packing(*(batch[name] for name in PACKED))
        lm, fusion = read_groups(self.module.reader, tokens, ids, regions, packing)
        losses = {"lm": lm} if self.settings.lm else {}
        return losses | ({"itm": matching(fusion)} if self._matching else {})

    def spare_memory(self) -> bool:
        """False: the scorer is small."""
        return False

    def clamp(self) -> None:
        """No parameter has bounds."""

    def judge(self, module: FusionNetwork) -> dict[str, float]:
        regions = regions_of(self.model.inputs, module, self._dev)

        def recall(texts: NDArray[np.int64], images: NDArray[np.int64], similarities: NDArray[np.float32]) -> float:
            """R@1 of lists of pairs, all [queries, candidates]."""
            scores = np.stack([similarities, fusion_of(module, self._dev, texts, images, regions)], axis=-1)
            is_match = self._dev.image_of_text[texts] == images
            best = (scores @ list_weights(scores, is_match)).argmax(axis=1)
            return float(is_match[np.arange(len(best)), best].mean())

        (text_rows, similarities, images), (image_rows, similarities_back, texts) = self._to_image, self._to_text
        return {
            "text -> image": recall(text_rows, images, similarities),
            "image -> text": recall(texts, image_rows, similarities_back),
        }
