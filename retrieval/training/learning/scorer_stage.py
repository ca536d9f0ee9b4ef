"""The scorer learns, once the heads have: to read captions (LM), and to tell from one another what the heads confuse
(ITM)."""

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

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.data.features import Features
    from retrieval.training.learning.settings import TrainSettings
    from retrieval.training.model.model import Model, Scorer

DEV_CANDIDATES = 10
JUDGED = f"all captions, {DEV_CANDIDATES} candidates"  # figures of another way cannot be compared
PARAMETERS = 2  # version of the scorer's parameters: a run that was begun with another cannot go on


class ScorerStage:
    """Judged by R@1 of dev, of every caption among the images and of every image among the captions, after the scorer
    saw the nearest and its logit was added to the similarity, weighted as it ranks best."""

    name = "scorer"

    def __init__(self, model: Model, features: Features, dev: Features, settings: TrainSettings, key: str) -> None:
        """model: its heads have learnt."""
        self.module: Scorer = model.scorer
        self.settings = settings
        self.schedule = settings.scorer
        self.group = min(settings.group, features.images)
        self.batch = max(1, part_of_batch(self.schedule, features.images) // self.group) * self.group
        self.steps = steps_an_epoch(features.images, self.batch)
        self.weights = {"itm": settings.itm, "lm": settings.lm}
        last = self.schedule.epochs - 1
        reads_first = settings.itm > 0 and settings.lm > 0
        self.patient_from = min(math.ceil(settings.match_from * self.schedule.epochs), last) if reads_first else 0
        self.key = key
        self._model = model
        self._dev = dev
        self._batches = Batches(features, model.inputs)
        self._order: Iterator[int] = iter(())
        self._matching = False
        self._neighbours = None
        if settings.itm and self.group > 1 and settings.hard:
            images, texts = (side_by_side(each) for each in embed(model.inputs, model.heads, features))
            self._neighbours = confusable(images, texts, features.image_of_text)
        images, texts = (side_by_side(each) for each in embed(model.inputs, model.heads, dev))
        asked, asking = np.arange(len(texts))[:, None], np.arange(len(images))[:, None]
        self._to_image = asked, *nearest(texts, [images], [None], min(DEV_CANDIDATES, len(images)))
        self._to_text = asking, *nearest(images, [texts], [None], min(DEV_CANDIDATES, len(texts)))

    def begin(self, number: int, rng: np.random.Generator) -> None:
        self._matching = self.settings.itm > 0 and number >= self.patient_from
        neighbours, count = self._neighbours, self._batches.features.images
        if neighbours is None:
            self._order = endless(lambda: rng.permutation(count))
        else:
            self._order = endless(lambda: grouped_order(neighbours, self.group, rng))

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        images = take(self._order, self.batch)
        features = self._batches.features
        cells, classes, _ = self._batches.views(images, rng)
        texts = self._batches.texts(images, self.schedule.captions, rng)
        words, _ = features.words_of(texts.ravel())
        numbers = features.numbers_of(texts.ravel())
        shape = (len(images) // self.group, self.group) if self._matching else (len(images), 1)
        regions = self.module.regions(cells, classes).unflatten(0, shape)
        words, numbers = (each.unflatten(0, (*shape, texts.shape[1])) for each in (words, numbers))
        lm, logits = self.module.reader.read_groups(words, numbers, regions)
        found = {"lm": lm} if self.settings.lm else {}
        return found | ({"itm": matching(logits)} if self._matching else {})

    def clamp(self) -> None:
        """Nothing here has bounds."""

    def judge(self, module: Scorer) -> dict[str, float]:
        regions = regions_of(self._model.inputs, module, self._dev)

        def first(texts: NDArray[np.int64], images: NDArray[np.int64], similarities: NDArray[np.float32]) -> float:
            """R@1 of lists of pairs, all [queries, candidates]."""
            scores = np.stack([similarities, fusion_of(module, self._dev, texts, images, regions)], axis=-1)
            is_match = self._dev.image_of_text[texts] == images
            best = (scores @ list_weights(scores, is_match)).argmax(axis=1)
            return float(is_match[np.arange(len(best)), best].mean())

        (asked, similarities, images), (asking, similarities_back, texts) = self._to_image, self._to_text
        return {
            "text -> image": first(asked, images, similarities),
            "image -> text": first(texts, asking, similarities_back),
        }
