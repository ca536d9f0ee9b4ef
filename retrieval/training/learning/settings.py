"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from retrieval.training.learning.schedule import Schedule
from retrieval.training.model.model import ModelSettings


@dataclass(frozen=True)
class TrainSettings:
    """itc, itm, lm: weights of the losses; a loss of weight 0 is not computed, and a stage without losses is skipped.

    match_from: share of the scorer's epochs after which it learns matching (ITM) beside reading (LM); without LM it
    matches from the beginning. Matching teaches what tells images apart, but overfits to the training captions. group:
    number of images that are matched with one another's captions. hard: whether the images of a group are hard
    negatives, or random. softness: share of the contrast's target that is given to images whose captions the frozen
    text tower finds similar, at the temperature `softness_temperature`.

    heads, scorer, towers: schedules of the stages. The scorer learns after the heads, which find its hard negatives;
    the towers learn only when they are unfrozen."""

    itc: float = 1.0
    itm: float = 1.0
    lm: float = 1.0
    match_from: float = 0.7
    group: int = 4
    hard: bool = True
    softness: float = 0.2
    softness_temperature: float = 0.05
    seed: int = 0
    heads: Schedule = field(default_factory=lambda: Schedule(epochs=30, batch=384, captions=2))
    scorer: Schedule = field(default_factory=lambda: Schedule(epochs=16, batch=128, captions=1))
    towers: Schedule = field(
        default_factory=lambda: Schedule(epochs=3, batch=256, captions=1, learning_rate=1e-5, average=0.99)
    )
    model: ModelSettings = field(default_factory=ModelSettings)
