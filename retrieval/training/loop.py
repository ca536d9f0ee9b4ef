"""The training loop of the heads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from indexes.errors import CrosslookError
from retrieval.metrics import caption_relevance, streamed_ranks, success_at
from retrieval.training.features import WHOLE, Features
from retrieval.training.heads import STATISTICS, Heads, HeadSettings, input_statistics
from retrieval.training.losses import contrastive, softness_of

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
LONGEST_SCALE = 60.0
EMBEDDED_AT_ONCE = 500


@dataclass(frozen=True)
class TrainSettings:
    """batch: images a step, each with `captions` of its captions. decay: of the weights (AdamW). average: of the
    exponential moving average that is evaluated and kept. softness: share of the target given to what frozen captions
    find alike, at `softness_temperature`. patience: epochs without a better dev recall before stopping."""

    epochs: int = 24
    batch: int = 512
    captions: int = 2
    learning_rate: float = 1e-3
    decay: float = 0.05
    warm_up: float = 0.05
    average: float = 0.98
    softness: float = 0.2
    softness_temperature: float = 0.05
    patience: int = 8
    seed: int = 0
    heads: HeadSettings = field(default_factory=HeadSettings)


@dataclass(frozen=True)
class Epoch:
    """loss: mean over its steps. recalls: R@1 of dev, text->image and image->text, 0 to 1, of the moving average."""

    number: int
    loss: float
    text_to_image: float
    image_to_text: float

    @property
    def quality(self) -> float:
        return (self.text_to_image + self.image_to_text) / 2


def train(
    features: Features,
    dev: Features,
    class_embeddings: NDArray[np.float32],
    out: Path,
    settings: TrainSettings,
    observe: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Heads, list[Epoch]]:
    """Train heads on `features`, keep those best on `dev`, and return them with the history.

    The state after every epoch is kept in the folder `out`: run again after a kill, it goes on from there and ends in
    the same weights. Raises `CrosslookError` when `out` holds a run of other settings or data."""
    torch.manual_seed(settings.seed)
    statistics = input_statistics(_float(features.cells[WHOLE, ::4]), _float(features.logits[WHOLE]))
    heads = Heads(torch.from_numpy(class_embeddings), statistics, settings.heads)
    run = _Run(heads, features, settings, out)
    history = run.resume()
    for number in range(len(history), settings.epochs):
        if number - _best(history) > settings.patience:
            break
        loss = run.epoch(number)
        averaged = run.averaged()
        epoch = Epoch(number, loss, *recalls(averaged, dev))
        history.append(epoch)
        if _best(history) == number:
            run.best = {name: value.clone() for name, value in averaged.state_dict().items()}
        run.save(history)
        observe(epoch)
    heads.load_state_dict(run.best)
    return heads.eval(), history


def recalls(heads: Heads, features: Features) -> tuple[float, float]:
    """R@1 text->image and image->text, 0 to 1."""
    images, texts = embed(heads, features)
    to_image, to_text = caption_relevance(features.image_of_text)
    found = streamed_ranks(texts, images, to_image), streamed_ranks(images, texts, to_text)
    return float(success_at(found[0], 1).mean()), float(success_at(found[1], 1).mean())


@torch.inference_mode()  # type: ignore[untyped-decorator]
def embed(heads: Heads, features: Features) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings of all images as they are, and of all texts, float32 [n, 384]."""
    heads.eval()
    images, texts = [], []
    for low in range(0, features.images, EMBEDDED_AT_ONCE):
        rows = slice(low, low + EMBEDDED_AT_ONCE)
        images.append(heads.image(*_image_inputs(features.cells[WHOLE, rows], features.logits[WHOLE, rows])))
    for low in range(0, len(features.texts), EMBEDDED_AT_ONCE):
        some = np.arange(low, min(low + EMBEDDED_AT_ONCE, len(features.texts)))
        texts.append(heads.text(_float(features.texts[some]), *features.words_of(some)))
    return torch.cat(images).numpy(), torch.cat(texts).numpy()


class _Run:
    """Weights, optimiser and moving average, with their state on disk."""

    def __init__(self, heads: Heads, features: Features, settings: TrainSettings, out: Path) -> None:
        self.heads = heads
        self.features = features
        self.settings = settings
        self.out = out
        self.best: dict[str, torch.Tensor] = {}
        self.average = {name: value.clone() for name, value in heads.state_dict().items()}
        self.steps_an_epoch = max(1, features.images // settings.batch)
        matrices = [each for each in heads.parameters() if each.ndim > 1]
        others = [each for each in heads.parameters() if each.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
        counts = np.bincount(features.image_of_text, minlength=features.images)
        self._first_text = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._text_count = counts

    def epoch(self, number: int) -> float:
        """One pass over the images; returns the mean loss. What is drawn depends on seed and number alone."""
        rng = np.random.default_rng([self.settings.seed, number])
        torch.manual_seed(int(rng.integers(2**62)))
        self.heads.train()
        losses = []
        for step, images in enumerate(self._batches(rng)):
            self._set_learning_rate(number * self.steps_an_epoch + step)
            loss = self._loss(images, rng)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.heads.parameters(), 1.0)
            self.optimizer.step()
            with torch.no_grad():
                self.heads.log_scale.clamp_(max=math.log(LONGEST_SCALE))
            self._update_average(number * self.steps_an_epoch + step)
            losses.append(loss.item())
        return float(np.mean(losses))

    def _batches(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        order = rng.permutation(self.features.images)
        for step in range(self.steps_an_epoch):
            yield order[step * self.settings.batch : (step + 1) * self.settings.batch]

    def _loss(self, images: NDArray[np.int64], rng: np.random.Generator) -> torch.Tensor:
        views = rng.integers(len(self.features.cells), size=len(images))
        texts = np.concatenate([self._some_texts(image, rng) for image in images])
        image_of_text = torch.from_numpy(np.repeat(np.arange(len(images)), self.settings.captions))
        inputs = _image_inputs(self.features.cells[views, images], self.features.logits[views, images])
        frozen = _float(self.features.texts[texts])
        softness = None
        if self.settings.softness:
            softness = softness_of(
                frozen, image_of_text, len(images), self.settings.softness, self.settings.softness_temperature
            )
        return contrastive(
            self.heads.text(frozen, *self.features.words_of(texts)),
            self.heads.image(*inputs),
            image_of_text,
            self.heads.log_scale.exp(),
            softness,
        )

    def _some_texts(self, image: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As many captions of the image as asked for, distinct where it has so many."""
        count, wanted = int(self._text_count[image]), self.settings.captions
        chosen = rng.permutation(count)[:wanted] if count >= wanted else rng.integers(count, size=wanted)
        return np.asarray(self._first_text[image] + chosen, dtype=np.int64)

    def _set_learning_rate(self, step: int) -> None:
        """Linear warm-up, then half a cosine down to a thousandth."""
        total = self.settings.epochs * self.steps_an_epoch
        warm_up = max(1.0, self.settings.warm_up * total)
        share = min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / total)) + 1e-3)
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.settings.learning_rate

    def _update_average(self, step: int) -> None:
        keep = min(self.settings.average, (step + 1) / (step + 11))  # young averages follow fast
        with torch.no_grad():
            for name, value in self.heads.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)

    def averaged(self) -> Heads:
        """The heads with the moving average of their weights."""
        found = Heads(
            self.heads.image.class_embeddings,
            {name: getattr(self.heads.image, name) for name in STATISTICS},
            self.settings.heads,
        )
        found.load_state_dict(self.average)
        return found

    def save(self, history: list[Epoch]) -> None:
        tensors = {f"heads.{name}": value for name, value in self.heads.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        draft = self.out / (CHECKPOINT + ".new")
        save_file({name: value.contiguous() for name, value in tensors.items()}, draft, self._metadata(history))
        draft.replace(self.out / CHECKPOINT)
        with (self.out / LOG).open("w") as log:
            log.writelines(json.dumps(asdict(epoch)) + "\n" for epoch in history)

    def resume(self) -> list[Epoch]:
        """The history of the run in the folder, its state taken over; empty where there is none."""
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / CHECKPOINT
        if not path.exists():
            return []
        metadata = read_metadata(path)
        if metadata["settings"] != self._metadata([])["settings"]:
            raise CrosslookError(f"{self.out} holds a run with other settings or data: choose another --out")
        tensors = load_file(path)

        def under(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.heads.load_state_dict(under("heads."))
        self.average, self.best = under("average."), under("best.")
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in under("optimizer.").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        return [Epoch(**epoch) for epoch in json.loads(metadata["history"])]

    def _metadata(self, history: list[Epoch]) -> dict[str, str]:
        about = {
            "train": asdict(self.settings),
            "images": self.features.images,
            "texts": len(self.features.texts),
            "views": len(self.features.cells),
        }
        history_text = json.dumps([asdict(epoch) for epoch in history])
        return {"settings": json.dumps(about, sort_keys=True), "history": history_text}


def read_metadata(path: Path) -> dict[str, str]:
    """What a checkpoint says of itself."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def _best(history: list[Epoch]) -> int:
    """Number of the best epoch, the first of equals; 0 before any."""
    return max(history, key=lambda epoch: epoch.quality).number if history else 0


def _image_inputs(cells: NDArray[np.float16], logits: NDArray[np.float16]) -> tuple[torch.Tensor, torch.Tensor]:
    return _float(cells), _float(logits)


def _float(values: NDArray[np.float16]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
