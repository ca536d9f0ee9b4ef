"""The training loop: runs one stage of training, whatever it learns, and resumes it after a kill."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from indexes.errors import CrosslookError
from indexes.on_device.torch_memory import lacks_memory
from retrieval.progress import SILENT, Epoch, Observer, Step
from retrieval.training import accelerator
from retrieval.training.accelerator import Batch
from retrieval.training.data.tensors import DamagedTensors, load_tensors, save_tensors
from retrieval.training.learning.feeding import Losses, batches
from retrieval.training.parallel import average_gradients, copy_first, from_rank_0, rank, world

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retrieval.training.learning.schedule import Schedule


LOG = "log.jsonl"


class Stage(Protocol):
    """Something to learn.

    module: what learns; `learn` leaves the best average in it. steps: of an epoch. weights: of the losses by name.
    patient_from: the epoch from which patience counts. key: identifies settings and data.

    A step has three parts. `draw` is called for one batch after the other. `load` may be called by other threads, while
    earlier batches are learnt from. Only `losses` uses the module."""

    name: str
    module: nn.Module
    schedule: Schedule
    steps: int
    weights: dict[str, float]
    patient_from: int
    key: str

    def begin(self, number: int, rng: np.random.Generator) -> None:
        """Begin epoch `number`, from 0."""
        ...

    def draw(self, rng: np.random.Generator) -> Any:
        """Which data the next batch holds."""
        ...

    def load(self, drawn: Any) -> Batch:
        """The batch, tensors by name on the training's device."""
        ...

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch by name, only of those that have a weight."""
        ...

    def spare_memory(self) -> bool:
        """Compute with less memory from now on, if more slowly. False if that is not possible."""
        ...

    def clamp(self) -> None:
        """Keep parameters within their bounds. Called after every step."""
        ...

    def stored_name(self, name: str) -> str:
        """The name in a checkpoint of the tensor that the module's `state_dict` calls `name`."""
        ...

    def judge(self, module: nn.Module) -> dict[str, float]:
        """Figures of a module that takes the place of the learning one, see `Epoch.dev`."""
        ...


def learn(stage: Stage, out: Path, seed: int, observer: Observer = SILENT) -> list[Epoch]:
    """Train a stage, leave the weights that were best on dev in its module, and return the history.

    The state after every epoch is saved in the folder `out`: a run that is started again after a kill resumes from it
    and ends in the same weights. With several processes, each of them calls this. Raises `CrosslookError` if `out`
    holds a run with other settings or data."""
    copy_first(stage.module.state_dict().values())
    run = _Run(stage, out, observer if rank() == 0 else SILENT)
    history = run.resume()
    if from_rank_0(len(history)) != len(history):
        raise CrosslookError(f"the processes see different runs in {out.parent}: use a folder that all of them share")
    for number in range(len(history), stage.schedule.epochs):
        if number - max(_best(history), stage.patient_from) > stage.schedule.patience:
            break
        try:
            losses = run.epoch(number, seed)
            figures = stage.judge(run.averaged) if rank() == 0 else {}
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            raise CrosslookError(f"{stage.name}: the GPU has too little free memory: use --device cpu") from error
        epoch = Epoch(stage.name, number, losses, from_rank_0(figures))
        history.append(epoch)
        if _best(history) == number:
            run.best = {name: value.clone() for name, value in run.averaged.state_dict().items()}
        if rank() == 0:
            run.save(history)
            observer.epoch(epoch)
    if run.best:
        stage.module.load_state_dict(run.best)
    stage.module.eval()
    return history


class _Run:
    """The optimiser and the moving average of a stage, and their state on disk."""

    def __init__(self, stage: Stage, out: Path, observer: Observer) -> None:
        self.stage = stage
        self.observer = observer
        self.out = out
        self.path = out / f"{stage.name}.safetensors"
        self.key = f"{stage.key}, {world()} processes"
        self.averaged = copy.deepcopy(stage.module).eval().requires_grad_(False)
        self.best: dict[str, Tensor] = {}
        matrices = [parameter for parameter in stage.module.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in stage.module.parameters() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": stage.schedule.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = accelerator.optimizer_of(groups, lr=stage.schedule.learning_rate, betas=(0.9, 0.98))
        self._averages = list(self.averaged.state_dict().values())
        self._values = list(stage.module.state_dict().values())

    def epoch(self, number: int, seed: int) -> dict[str, float]:
        """Run one epoch and return the mean losses. All randomness depends on seed, stage, epoch and rank alone."""
        stage = self.stage
        rng = np.random.default_rng([seed, number, rank(), *stage.name.encode()])
        torch.manual_seed(int(rng.integers(2**62)))
        stage.begin(number, rng)
        stage.module.train()
        history: dict[str, list[float]] = {}
        what = f"{stage.name}, epoch {number + 1} of {stage.schedule.epochs}"
        done, device = 0, accelerator.acceleration()

        def report(readings: Iterable[dict[str, float]]) -> None:
            nonlocal done
            for losses in readings:
                done += 1
                self.observer.step(Step(what, done, stage.steps, losses))
                for name, loss in losses.items():
                    history.setdefault(name, []).append(loss)

        losses = Losses(device.lag)
        source = batches(lambda: stage.draw(rng), stage.load, stage.steps, device.ahead, stage.spare_memory)
        with closing(source) as feed:
            for step, batch in enumerate(feed, number * stage.steps):
                report(losses.put(self._step(step, batch)))
        report(losses.rest())
        return {name: float(np.mean(values)) for name, values in history.items()}

    def _step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimiser, counted over all epochs. Returns the losses."""
        stage = self.stage
        for group in self.optimizer.param_groups:
            group["lr"] = stage.schedule.rate(step, stage.schedule.epochs * stage.steps)
        losses = self._backward(batch)
        while losses is None:
            if not stage.spare_memory():
                raise torch.cuda.OutOfMemoryError
            losses = self._backward(batch)
        average_gradients(stage.module.parameters())
        torch.nn.utils.clip_grad_norm_(stage.module.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            stage.clamp()
            self._update_average(step)
        return losses

    def _backward(self, batch: Batch) -> dict[str, Tensor] | None:
        """The losses, and the gradients of their weighted sum in the parameters. None if the memory did not suffice."""
        stage = self.stage
        self.optimizer.zero_grad()
        try:
            with accelerator.reduced_precision():
                losses = stage.losses(batch)
            torch.stack([stage.weights[name] * loss for name, loss in losses.items()]).sum().backward()
        except RuntimeError as error:
            if lacks_memory(error):
                return None
            raise
        return losses

    def _update_average(self, step: int) -> None:
        decay = self.stage.schedule.average_decay(step)
        floating = [average.is_floating_point() for average in self._averages]
        averages, values = (
            [tensor for tensor, learns in zip(tensors, floating, strict=True) if learns]
            for tensors in (self._averages, self._values)
        )
        get_ema_multi_avg_fn(decay)(averages, values, 0)
        for average, value, learns in zip(self._averages, self._values, floating, strict=True):
            if not learns:  # counts of steps
                average.copy_(value)

    def save(self, history: list[Epoch]) -> None:
        """Replace the stage's checkpoint."""
        states = {"model": self.stage.module.state_dict(), "average": self.averaged.state_dict(), "best": self.best}
        tensors = {
            f"{part}.{self.stage.stored_name(name)}": value
            for part, state in states.items()
            for name, value in state.items()
        }
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        metadata = {"key": self.key, "history": json.dumps([asdict(epoch) for epoch in history])}
        save_tensors({name: value.cpu().contiguous() for name, value in tensors.items()}, self.path, metadata)

    def resume(self) -> list[Epoch]:
        """Take over the state of the checkpoint and return its history.

        Empty if there is no checkpoint, or it is damaged, as after a power failure."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return []
        try:
            tensors, metadata = load_tensors(self.path)
            history = [Epoch(**epoch) for epoch in json.loads(metadata["history"])]
            key = metadata["key"]
        except (DamagedTensors, ValueError, KeyError, TypeError):
            self.observer.note(f"{self.path} is damaged: the stage {self.stage.name} begins anew")
            return []
        if key != self.key:
            raise CrosslookError(f"{self.out.parent} holds a run with other settings or data: choose another --out")

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        def state_of(part: str) -> dict[str, Tensor]:
            """Under the names that the code has now."""
            stored, names = under(f"{part}."), self.stage.module.state_dict()
            return {name: stored[self.stage.stored_name(name)] for name in names} if stored else {}

        self.stage.module.load_state_dict(state_of("model"))
        self.averaged.load_state_dict(state_of("average"))
        self.best = state_of("best")
        state: dict[int, dict[str, Any]] = {}
        for name, value in under("optimizer.").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:  # laid out alike, which kernels for several tensors rely on
                    values[name] = torch.empty_like(parameter).copy_(value)
        return history


def only_stages(out: Path, names: Sequence[str]) -> None:
    """Raises `CrosslookError` if the folder `out` holds the checkpoint of a stage that is not in `names`."""
    others = sorted(path.stem for path in out.glob("*.safetensors") if path.stem not in names)
    if others:
        raise CrosslookError(f"{out.parent} holds a run that trains {others[0]}: choose another --out")


def log_of(history: Sequence[Epoch]) -> str:
    """The history as JSON lines, one an epoch."""
    return "".join(json.dumps(asdict(epoch)) + "\n" for epoch in history)


def best_of_stages(history: Sequence[Epoch]) -> list[tuple[Epoch, int]]:
    """The best epoch of each stage, and how many epochs the stage had."""
    stages = {epoch.stage: [other for other in history if other.stage == epoch.stage] for epoch in history}
    return [(epochs[_best(epochs)], len(epochs)) for epochs in stages.values()]


def _best(history: Sequence[Epoch]) -> int:
    """The number of the best epoch, of equals the first; 0 before any."""
    return max(history, key=lambda epoch: epoch.quality).number if history else 0
