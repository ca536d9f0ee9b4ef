"""The stage in which the scorer learns, after the heads: to read captions (LM), and to match (ITM) images and captions
that the heads confuse."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexes.exact import nearest
from retrieval.calibration import list_weights
from retrieval.training.data.batches import Batches, endless, part_of_batch, steps_an_epoch, take
from retrieval.training.data.mining import confusable, grouped_order
from retrieval.training.inference import embed, fusion_of, regions_of, side_by_side
from retrieval.training.learning.losses import matching
from retrieval.training.model.group_reading import read_groups
from retrieval.training.stored_names import stored_name

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.data.features import Features
    from retrieval.training.learning.settings import TrainSettings
    from retrieval.training.model.model import FusionNetwork, Model

DEV_CANDIDATES = 10
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

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """LM, and ITM in the epochs that match. Without matching, every image is a group by itself."""
        images = take(self._order, self.batch)
        features = self._batches.features
        cells, classes, _ = self._batches.views(images, rng)
        texts = self._batches.texts(images, self.schedule.captions, rng)
        tokens, _ = features.tokens_of(texts.ravel())
        ids = features.vocabulary_ids_of(texts.ravel())
        shape = (len(images) // self.group, self.group) if self._matching else (len(images), 1)
        regions = self.module.regions(cells, classes).unflatten(0, shape)
        tokens, ids = (item.unflatten(0, (*shape, texts.shape[1])) for item in (tokens, ids))
        lm, fusion = read_groups(self.module.reader, tokens, ids, regions)
        losses = {"lm": lm} if self.settings.lm else {}
        return losses | ({"itm": matching(fusion)} if self._matching else {})

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
