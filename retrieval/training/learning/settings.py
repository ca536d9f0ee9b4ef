"""What a training run is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from retrieval.training.model.model import ModelSettings


@dataclass(frozen=True)
class Schedule:
    """One stage of training. batch: images a step, each with so many of its captions; of several processes each has its
    part, in which alone the contrast looks for negatives. learning_rate: the highest (AdamW); it rises linearly for the
    share `warm_up` of all steps and falls by half a cosine. decay: of weight matrices. average: of the exponential
    moving average that is judged and kept. patience: epochs without better figures on dev before stopping."""

    epochs: int
    batch: int
    captions: int
    learning_rate: float = 1e-3
    decay: float = 0.05
    warm_up: float = 0.05
    average: float = 0.98
    patience: int = 8


@dataclass(frozen=True)
class TrainSettings:
    """heads, scorer, towers: their schedules; the scorer learns when the heads are done, which find its hard negatives;
    towers learn only when they are not frozen. itc, itm, lm: weights of the losses; a loss of weight 0 is not computed,
    and a stage without any is left out. match_from: share of the scorer's epochs before it matches as well as reads
    (from the beginning where it does not read): matching teaches what tells images apart, but learns training captions
    by heart. group: of the images of the scorer's batches so many are matched with one another's captions; hard: and
    are easily confused. softness: share of the target of the contrast given to what frozen captions find alike, at
    `softness_temperature`."""

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
