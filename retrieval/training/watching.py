"""What a training run tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retrieval.progress import Step


@dataclass(frozen=True)
class Epoch:
    """stage: what was learning. losses: by name, each the mean over the steps, before weighting. dev: figures on the
    images to choose by, 0 to 1, by name, of the moving average."""

    stage: str
    number: int
    losses: dict[str, float]
    dev: dict[str, float]

    @property
    def quality(self) -> float:
        return sum(self.dev.values()) / len(self.dev)


@dataclass(frozen=True)
class Watcher:
    """note: told what people should know. step, epoch: told of every one."""

    note: Callable[[str], None] = lambda text: None
    step: Callable[[Step], None] = lambda step: None
    epoch: Callable[[Epoch], None] = lambda epoch: None


UNWATCHED = Watcher()
