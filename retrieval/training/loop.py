"""The training loop: heads and scorer on frozen towers' features."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from indexes.errors import CrosslookError
from indexes.exact import nearest
from retrieval.metrics import caption_relevance, streamed_ranks, success_at
from retrieval.training.features import WHOLE, Features
from retrieval.training.heads import input_statistics
from retrieval.training.losses import contrast, softness_of
from retrieval.training.mining import confusable, grouped_order
from retrieval.training.model import Model, ModelSettings
from retrieval.training.scorer import SHARPEST

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
LARGEST_SCALE = 60.0
AT_ONCE = 500
DEV_CANDIDATES = 20


@dataclass(frozen=True)
class TrainSettings:
    """itc, itm, lm: weights of the losses; a loss of weight 0 is not computed. batch: images a step that the heads see,
    each with `captions` of its captions. scorer_batch: images a step that the scorer sees, each with `read` captions,
    one of which it also compares. group: of these images so many come together that are easily confused, so that the
    scorer learns from hard negatives; 1 for none. mine_every: epochs after which they are found anew, by the moving
    average. decay: of the weights (AdamW). average: of the exponential moving average that is evaluated and kept.
    softness: share of the target given to what frozen captions find alike, at `softness_temperature`. patience: epochs
    without a better dev recall before stopping."""

    epochs: int = 30
    itc: float = 1.0
    itm: float = 1.0
    lm: float = 1.0
    batch: int = 384
    captions: int = 2
    scorer_batch: int = 128
    read: int = 3
    group: int = 3
    mine_every: int = 2
    learning_rate: float = 1e-3
    decay: float = 0.05
    warm_up: float = 0.05
    average: float = 0.98
    softness: float = 0.2
    softness_temperature: float = 0.05
    patience: int = 8
    seed: int = 0
    model: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True)
class Epoch:
    """losses: by name, each the mean over the steps, before weighting. text_to_image, image_to_text: R@1 of dev by
    similarity, 0 to 1; reranked: of one caption an image, after the scorer saw its 20 nearest images and its two parts
    were added to the similarity at equal spread. All of the moving average."""

    number: int
    losses: dict[str, float]
    text_to_image: float
    image_to_text: float
    reranked: float

    @property
    def quality(self) -> float:
        return (self.text_to_image + self.image_to_text + self.reranked) / 3


def train(
    features: Features,
    dev: Features,
    class_embeddings: NDArray[np.float32],
    out: Path,
    settings: TrainSettings,
    observe: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Model, list[Epoch]]:
    """Train on `features`, keep what is best on `dev`, and return it with the history.

    The state after every epoch is kept in the folder `out`: run again after a kill, it goes on from there and ends in
    the same weights. Raises `CrosslookError` when `out` holds a run of other settings or data."""
    torch.manual_seed(settings.seed)
    statistics = input_statistics(_float(features.cells[WHOLE, ::4]), _float(features.whole[WHOLE]))

    vocabulary = features.vocabulary
    trained = torch.tensor([float(settings.itm > 0), float(settings.lm > 0 and len(vocabulary) > 0)])

    def fresh() -> Model:
        model = Model(torch.from_numpy(class_embeddings), statistics, vocabulary, settings.model)
        model.weights.copy_(trained)
        return model

    run = _Run(fresh(), features, settings, out, dev.key)
    averaged = fresh()
    history = run.resume()
    for number in range(len(history), settings.epochs):
        if number - _best(history) > settings.patience:
            break
        losses = run.epoch(number, averaged)
        averaged.load_state_dict(run.average)
        epoch = Epoch(number, losses, *judge(averaged, dev))
        history.append(epoch)
        if _best(history) == number:
            run.best = {name: value.clone() for name, value in run.average.items()}
        run.save(history)
        observe(epoch)
    averaged.load_state_dict(run.best)
    return averaged.eval(), history


def judge(model: Model, features: Features) -> tuple[float, float, float]:
    """R@1 text->image, image->text, and text->image re-ranked, 0 to 1; see `Epoch`."""
    images, texts = (_side_by_side(each) for each in embed(model, features))
    to_image, to_text = caption_relevance(features.image_of_text)
    found = streamed_ranks(texts, images, to_image), streamed_ranks(images, texts, to_text)
    asked = np.unique(features.image_of_text, return_index=True)[1]
    similarities, candidates = nearest(texts[asked], [images], [None], min(DEV_CANDIDATES, len(images)))
    of_parts = np.moveaxis(fusion_of(model, features, asked, candidates), -1, 0)
    parts = [similarities, *(part for part, weight in zip(of_parts, model.weights, strict=True) if weight)]
    scores = np.sum([each / max(each.std(), 1e-9) for each in map(_centred, parts)], axis=0)
    first = np.take_along_axis(candidates, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    reranked = float((first == features.image_of_text[asked]).mean())
    return float(success_at(found[0], 1).mean()), float(success_at(found[1], 1).mean()), reranked


@torch.inference_mode()  # type: ignore[untyped-decorator]
def embed(
    model: Model, features: Features, towers: bool = False
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """By each member of the heads, the embeddings of all images as they are, and of all texts, float32 [n, 384].
    towers: and last those by the towers alone, which are all there are where there are no heads."""
    if not model.settings.heads.members:
        return [_float(features.whole[WHOLE]).numpy()], [_float(features.texts).numpy()]
    model.eval()
    images, texts = [], []
    for low in range(0, features.images, AT_ONCE):
        rows = slice(low, low + AT_ONCE)
        logits = _float(features.whole[WHOLE, rows])
        cells, classes = model.inputs(_float(features.cells[WHOLE, rows]), logits)
        parts = model.heads.images(cells, classes, logits)
        images.append(torch.stack([*parts, model.heads.conse(logits)] if towers else parts))
    for low in range(0, len(features.texts), AT_ONCE):
        some = np.arange(low, min(low + AT_ONCE, len(features.texts)))
        frozen = _float(features.texts[some])
        parts = model.heads.texts(frozen, *features.words_of(some))
        texts.append(torch.stack([*parts, frozen] if towers else parts))
    return list(torch.cat(images, dim=1).numpy()), list(torch.cat(texts, dim=1).numpy())


@torch.inference_mode()  # type: ignore[untyped-decorator]
def regions_of(model: Model, features: Features) -> torch.Tensor:
    """The region tokens of all images as they are, float32 [n, 49, dim], unit norm."""
    model.eval()
    found = []
    for low in range(0, features.images, AT_ONCE):
        rows = slice(low, low + AT_ONCE)
        inputs = model.inputs(_float(features.cells[WHOLE, rows]), _float(features.whole[WHOLE, rows]))
        found.append(model.regions(*inputs))
    return torch.cat(found)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def fusion_of(
    model: Model,
    features: Features,
    texts: NDArray[np.int64],
    candidates: NDArray[np.int64],
    regions: torch.Tensor | None = None,
) -> NDArray[np.float32]:
    """Both parts of the scorer's logits of some texts with their candidates, float32 [texts, n, 2], see `Model`.
    candidates: int64 [texts, n], rows of images. regions: of all images, where they are known."""
    model.eval()
    if regions is None:
        regions = regions_of(model, features)
    found = []
    for text, row in zip(texts, candidates, strict=True):
        words, _ = features.words_of([text])
        found.append(model.parts(words[0], regions[row]))
    return torch.stack(found).numpy()


def _centred(lists: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each list without its mean, by which it ranks nothing."""
    return lists - lists.mean(axis=1, keepdims=True)


class _Run:
    """Weights, optimiser and moving average, with their state on disk."""

    def __init__(self, model: Model, features: Features, settings: TrainSettings, out: Path, dev_key: str) -> None:
        self.model = model
        self.features = features
        self.settings = settings
        self.out = out
        self.dev_key = dev_key
        self.best: dict[str, torch.Tensor] = {}
        self.average = {name: value.clone() for name, value in model.state_dict().items()}
        self.neighbours: NDArray[np.int64] | None = None
        self.steps_an_epoch = max(1, features.images // settings.batch)
        matrices = [each for each in model.parameters() if each.ndim > 1]
        others = [each for each in model.parameters() if each.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
        counts = np.bincount(features.image_of_text, minlength=features.images)
        self._first_text = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._text_count = counts

    def epoch(self, number: int, averaged: Model) -> dict[str, float]:
        """One pass over the images; returns the mean losses. What is drawn depends on seed and number alone. averaged:
        a model to mine hard negatives with."""
        rng = np.random.default_rng([self.settings.seed, number])
        torch.manual_seed(int(rng.integers(2**62)))
        heads, scorer = (
            _endless(lambda: rng.permutation(self.features.images)),
            self._scorer_order(number, rng, averaged),
        )
        self.model.train()
        losses: dict[str, list[float]] = {}
        for step in range(number * self.steps_an_epoch, (number + 1) * self.steps_an_epoch):
            self._set_learning_rate(step)
            found = {}
            if self.settings.itc:
                found["itc"] = self._itc(_take(heads, min(self.settings.batch, self.features.images)), rng)
            if self.model.weights.any():
                found |= self._itm_and_lm(_take(scorer, min(self.settings.scorer_batch, self.features.images)), rng)
            weighted = [getattr(self.settings, name) * loss for name, loss in found.items()]
            self.optimizer.zero_grad()
            torch.stack(weighted).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self._clamp()
            self._update_average(step)
            for name, loss in found.items():
                losses.setdefault(name, []).append(loss.item())
        return {name: float(np.mean(values)) for name, values in losses.items()}

    def _scorer_order(self, number: int, rng: np.random.Generator, averaged: Model) -> Iterator[int]:
        """Images without end, at random until the heads have learnt enough to tell which negatives are hard."""
        has_heads = self.settings.model.heads.members > 0
        if self.settings.group == 1 or (has_heads and number < self.settings.mine_every):
            return _endless(lambda: rng.permutation(self.features.images))
        if self.neighbours is None or (has_heads and number % self.settings.mine_every == 0):
            averaged.load_state_dict(self.average)
            images, texts = (_side_by_side(each) for each in embed(averaged, self.features))
            self.neighbours = confusable(images, texts, self.features.image_of_text)
        neighbours = self.neighbours
        return _endless(lambda: grouped_order(neighbours, self.settings.group, rng))

    def _inputs(
        self, images: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cells and classes of a view of each image, as `Inputs` gives them, and the class logits."""
        views = rng.integers(len(self.features.cells), size=len(images))
        logits = _float(self.features.whole[views, images])
        return *self.model.inputs(_float(self.features.cells[views, images]), logits), logits

    def _itc(self, images: NDArray[np.int64], rng: np.random.Generator) -> torch.Tensor:
        """The mean of the members' contrasts."""
        texts = np.concatenate([self._some_texts(image, self.settings.captions, rng) for image in images])
        image_of_text = torch.from_numpy(np.repeat(np.arange(len(images)), self.settings.captions))
        frozen = _float(self.features.texts[texts])
        of_images = self.model.heads.images(*self._inputs(images, rng))
        of_texts = self.model.heads.texts(frozen, *self.features.words_of(texts))
        softness = self._softness(frozen, image_of_text, len(images))
        scales = self.model.heads.log_scale.exp()
        each = [
            contrast(scale * text @ image.T, image_of_text, softness)
            for scale, text, image in zip(scales, of_texts, of_images, strict=True)
        ]
        return torch.stack(each).mean()

    def _itm_and_lm(self, images: NDArray[np.int64], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Matching, listwise among the images of the batch and their captions, and reading."""
        found = {}
        cells, classes, _ = self._inputs(images, rng)
        regions = self.model.regions(cells, classes)
        texts = np.stack([self._some_texts(image, self.settings.read, rng) for image in images])
        words, mask = self.features.words_of(texts.ravel())
        words, mask = words.unflatten(0, texts.shape), mask.unflatten(0, texts.shape)
        if self.model.weights[0]:
            own = torch.arange(len(images))
            softness = self._softness(_float(self.features.texts[texts[:, 0]]), own, len(own))
            logits = self.model.read_out.all_pairs(words[:, 0], mask[:, 0], regions)
            found["itm"] = contrast(logits, own, softness)
        if self.model.weights[1]:
            numbers = self.features.numbers_of(texts.ravel()).unflatten(0, texts.shape)
            found["lm"] = self.model.decoder.loss(words, numbers, regions)
        return found

    def _softness(self, frozen: torch.Tensor, image_of_text: torch.Tensor, count: int) -> torch.Tensor | None:
        weight, temperature = self.settings.softness, self.settings.softness_temperature
        return softness_of(frozen, image_of_text, count, weight, temperature) if weight else None

    def _some_texts(self, image: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """So many captions of the image, distinct where it has so many."""
        count = int(self._text_count[image])
        chosen = rng.permutation(count)[:wanted] if count >= wanted else rng.integers(count, size=wanted)
        return np.asarray(self._first_text[image] + chosen, dtype=np.int64)

    def _set_learning_rate(self, step: int) -> None:
        """Linear warm-up, then half a cosine down to a thousandth."""
        total = self.settings.epochs * self.steps_an_epoch
        warm_up = max(1.0, self.settings.warm_up * total)
        share = min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / total)) + 1e-3)
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.settings.learning_rate

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _clamp(self) -> None:
        read_out = self.model.read_out
        for scale in (self.model.heads.log_scale, read_out.log_scale):
            scale.clamp_(max=math.log(LARGEST_SCALE))
        for scale in (read_out.log_word_scale, read_out.log_region_scale):
            scale.clamp_(max=math.log(SHARPEST))

    def _update_average(self, step: int) -> None:
        keep = min(self.settings.average, (step + 1) / (step + 11))  # young averages follow fast
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)

    def save(self, history: list[Epoch]) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        if self.neighbours is not None:
            tensors["neighbours"] = torch.from_numpy(self.neighbours)
        draft = self.out / (CHECKPOINT + ".new")
        save_file({name: value.contiguous() for name, value in tensors.items()}, draft, self._metadata(history))
        draft.replace(self.out / CHECKPOINT)
        (self.out / LOG).write_text(log_of(history))

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

        self.model.load_state_dict(under("model."))
        self.average, self.best = under("average."), under("best.")
        if "neighbours" in tensors:
            self.neighbours = tensors["neighbours"].numpy()
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
            "data": [self.features.key, self.dev_key],
        }
        history_text = json.dumps([asdict(epoch) for epoch in history])
        return {"settings": json.dumps(about, sort_keys=True), "history": history_text}


def log_of(history: Sequence[Epoch]) -> str:
    """One line of JSON for each epoch."""
    return "".join(json.dumps(asdict(epoch)) + "\n" for epoch in history)


def _endless(order: Callable[[], NDArray[np.int64]]) -> Iterator[int]:
    """All images in an order, again and again."""
    while True:
        yield from order().tolist()


def _take(images: Iterator[int], count: int) -> NDArray[np.int64]:
    """The next images, each once."""
    found: dict[int, None] = {}
    while len(found) < count:
        found[next(images)] = None
    return np.array(list(found), dtype=np.int64)


def read_metadata(path: Path) -> dict[str, str]:
    """What a checkpoint says of itself."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def _best(history: list[Epoch]) -> int:
    """Number of the best epoch, the first of equals; 0 before any."""
    return max(history, key=lambda epoch: epoch.quality).number if history else 0


def _side_by_side(members: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The members' embeddings as one, of unit norm, whose inner product is the mean of theirs."""
    return np.concatenate(members, axis=1) / np.float32(math.sqrt(len(members)))


def _float(values: NDArray[np.float16]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
