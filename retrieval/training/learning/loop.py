"""The training loop: one stage of training, whatever it learns."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from indexes.errors import CrosslookError
from retrieval.progress import Step
from retrieval.training.data.tensors import DamagedTensors, load_tensors, save_tensors
from retrieval.training.learning.parallel import average_gradients, copy_first, of_first, rank, world
from retrieval.training.watching import UNWATCHED, Epoch, Watcher

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retrieval.training.learning.settings import Schedule


LOG = "log.jsonl"


class Stage(Protocol):
    """Something to learn. module: what learns; `learn` leaves the best average in it. steps: of an epoch. weights: of
    the losses, by name. patient_from: number of the epoch from which patience counts. key: tells settings and data from
    others."""

    name: str
    module: nn.Module
    schedule: Schedule
    steps: int
    weights: dict[str, float]
    patient_from: int
    key: str

    def begin(self, number: int, rng: np.random.Generator) -> None:
        """Begin an epoch, the first of which has number 0."""
        ...

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Of the next batch, of those that have a weight."""
        ...

    def clamp(self) -> None:
        """Keep weights within their bounds, after a step."""
        ...

    def judge(self, module: nn.Module) -> dict[str, float]:
        """Figures of a module in place of the one that learns, see `Epoch.dev`."""
        ...


def learn(stage: Stage, out: Path, seed: int, watcher: Watcher = UNWATCHED) -> list[Epoch]:
    """Train a stage, leave what was best on dev in its module, and return the history.

    The state after every epoch is kept in the folder `out`: run again after a kill, it goes on from there and ends in
    the same weights. Where there are several processes, each calls it. Raises `CrosslookError` when `out` holds a run
    of other settings or data."""
    copy_first(stage.module.state_dict().values())
    run = _Run(stage, out, watcher if rank() == 0 else UNWATCHED)
    history = run.resume()
    if of_first(len(history)) != len(history):
        raise CrosslookError(f"the processes see different runs in {out.parent}: use a folder that all of them share")
    for number in range(len(history), stage.schedule.epochs):
        if number - max(_best(history), stage.patient_from) > stage.schedule.patience:
            break
        losses = run.epoch(number, seed)
        epoch = Epoch(stage.name, number, losses, of_first(stage.judge(run.averaged) if rank() == 0 else {}))
        history.append(epoch)
        if _best(history) == number:
            run.best = {name: value.clone() for name, value in run.averaged.state_dict().items()}
        if rank() == 0:
            run.save(history)
            watcher.epoch(epoch)
    if run.best:
        stage.module.load_state_dict(run.best)
    stage.module.eval()
    return history


class _Run:
    """A stage's optimiser and moving average, with their state on disk."""

    def __init__(self, stage: Stage, out: Path, watcher: Watcher) -> None:
        self.stage = stage
        self.watcher = watcher
        self.out = out
        self.path = out / f"{stage.name}.safetensors"
        self.key = f"{stage.key}, {world()} processes"
        self.averaged = copy.deepcopy(stage.module).eval().requires_grad_(False)
        self.best: dict[str, Tensor] = {}
        matrices = [each for each in stage.module.parameters() if each.ndim > 1]
        others = [each for each in stage.module.parameters() if each.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": stage.schedule.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=stage.schedule.learning_rate, betas=(0.9, 0.98))

    def epoch(self, number: int, seed: int) -> dict[str, float]:
        """One epoch; returns the mean losses. What is drawn depends on seed, stage, number and the process alone."""
        stage = self.stage
        rng = np.random.default_rng([seed, number, rank(), *stage.name.encode()])
        torch.manual_seed(int(rng.integers(2**62)))
        stage.begin(number, rng)
        stage.module.train()
        losses: dict[str, list[float]] = {}
        what = f"{stage.name}, epoch {number + 1} of {stage.schedule.epochs}"
        for done in range(stage.steps):
            step = number * stage.steps + done
            self._set_learning_rate(step)
            found = stage.losses(rng)
            self.optimizer.zero_grad()
            torch.stack([stage.weights[name] * loss for name, loss in found.items()]).sum().backward()
            average_gradients(stage.module.parameters())
            torch.nn.utils.clip_grad_norm_(stage.module.parameters(), 1.0)
            self.optimizer.step()
            with torch.no_grad():
                stage.clamp()
                self._update_average(step)
            told = {name: loss.item() for name, loss in found.items()}
            self.watcher.step(Step(what, done + 1, stage.steps, told))
            for name, loss in told.items():
                losses.setdefault(name, []).append(loss)
        return {name: float(np.mean(values)) for name, values in losses.items()}

    def _set_learning_rate(self, step: int) -> None:
        """Linear warm-up, then half a cosine down to a thousandth."""
        schedule = self.stage.schedule
        total = schedule.epochs * self.stage.steps
        warm_up = max(1.0, schedule.warm_up * total)
        share = min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / total)) + 1e-3)
        for group in self.optimizer.param_groups:
            group["lr"] = share * schedule.learning_rate

    def _update_average(self, step: int) -> None:
        keep = min(self.stage.schedule.average, (step + 1) / (step + 11))  # young averages follow fast
        for average, value in zip(
            self.averaged.state_dict().values(), self.stage.module.state_dict().values(), strict=True
        ):
            if average.is_floating_point():
                average.lerp_(value, 1 - keep)
            else:  # counts of steps
                average.copy_(value)

    def save(self, history: list[Epoch]) -> None:
        tensors = {f"model.{name}": value for name, value in self.stage.module.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.averaged.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        metadata = {"key": self.key, "history": json.dumps([asdict(epoch) for epoch in history])}
        save_tensors({name: value.contiguous() for name, value in tensors.items()}, self.path, metadata)

    def resume(self) -> list[Epoch]:
        """The history of the stage's run in the folder, its state taken over; empty where there is none, or it is
        damaged, as by a loss of power."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return []
        try:
            tensors, metadata = load_tensors(self.path)
            history = [Epoch(**epoch) for epoch in json.loads(metadata["history"])]
            key = metadata["key"]
        except (DamagedTensors, ValueError, KeyError, TypeError):
            self.watcher.note(f"{self.path} is damaged: the stage {self.stage.name} begins anew")
            return []
        if key != self.key:
            raise CrosslookError(f"{self.out.parent} holds a run with other settings or data: choose another --out")

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.stage.module.load_state_dict(under("model."))
        self.averaged.load_state_dict(under("average."))
        self.best = under("best.")
        state: dict[int, dict[str, Any]] = {}
        for name, value in under("optimizer.").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        return history


def only_stages(out: Path, names: Sequence[str]) -> None:
    """Raises `CrosslookError` when the folder `out` holds the state of any other stage."""
    others = sorted(path.stem for path in out.glob("*.safetensors") if path.stem not in names)
    if others:
        raise CrosslookError(f"{out.parent} holds a run that trains {others[0]}: choose another --out")


def log_of(history: Sequence[Epoch]) -> str:
    """One line of JSON for each epoch."""
    return "".join(json.dumps(asdict(epoch)) + "\n" for epoch in history)


def best_of_stages(history: Sequence[Epoch]) -> list[tuple[Epoch, int]]:
    """The best epoch of each stage, and how many it had."""
    stages = {epoch.stage: [each for each in history if each.stage == epoch.stage] for epoch in history}
    return [(each[_best(each)], len(each)) for each in stages.values()]


def _best(history: Sequence[Epoch]) -> int:
    """Number of the best epoch, the first of equals; 0 before any."""
    return max(history, key=lambda epoch: epoch.quality).number if history else 0
