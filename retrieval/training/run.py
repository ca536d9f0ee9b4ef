"""From captioned images to a model directory: features, training, fitting, export and model card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from indexes.ann.faiss_module import import_faiss
from indexes.errors import CrosslookError
from indexes.files import put_durably
from retrieval.captions import CaptionedImage, CaptionSet, left_out_lines
from retrieval.encoders import canonical_name
from retrieval.encoders.adapted import ADAPTER
from retrieval.encoders.lite import LiteEncoder
from retrieval.fusion.scorer import EXPLAINER
from retrieval.progress import SILENT, Epoch, Observer, Step
from retrieval.training.card import model_card, views_of
from retrieval.training.data.features import Features, cached_features, trim_cache
from retrieval.training.data.sizes import DIM
from retrieval.training.data.towers import LiteTowers, OpenClipTowers, Towers
from retrieval.training.export import IMAGE_HEAD, TEXT_HEAD, write_model, write_scorer
from retrieval.training.fitting.calibrate import Fitted, calibrate
from retrieval.training.fitting.embedder import fit_embedder
from retrieval.training.fitting.estimate import fit_estimate
from retrieval.training.fitting.ranges import fit_ranges
from retrieval.training.inference import embed
from retrieval.training.learning.loop import LOG, best_of_stages, log_of
from retrieval.training.learning.settings import TrainSettings
from retrieval.training.learning.train import train
from retrieval.training.parallel import from_rank_0, processes, rank
from retrieval.training.stored_model import CONFIG

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.training.model.model import Model

CARD = "README.md"
RUN = "run"  # folder of the checkpoints, until the run is finished
DEV = ("dev", "val", "validation")
TEST = "test"
HELD_OUT = 10  # every tenth image, if no split says which


def train_model(
    sets: Sequence[CaptionSet],
    encoder: LiteEncoder | OpenClipEncoder,
    out: Path,
    settings: TrainSettings,
    *,
    views: int,
    cache: Path | None = None,
    device: str = "cpu",
    observer: Observer = SILENT,
    illustrate: Callable[[Sequence[Epoch], Fitted], dict[str, str]] = lambda history, fitted: {},
) -> list[Epoch]:
    """Train heads and scorer for `lite`, or a scorer alone for an open_clip model; calibrate on dev; write a model
    directory to `out`. Returns the history of the run.

    views: of each training image. cache: folder of the towers' outputs, None for the user's cache. illustrate: makes
    further files from the history and the calibration, text by file name.

    A model that `out` holds already stays in force until the new one is complete; only while its files are replaced
    there is none. A run that is started again after a kill resumes from its last epoch. Unreadable images are left out
    and reported.

    Raises `CrosslookError` if there is too little to train on, or `out` holds another run or an open_clip model."""
    if (out / "open_clip_config.json").exists():
        raise CrosslookError(f"{out} is a model of open_clip, which would be lost: choose another --out")
    training, dev = split_sets(sets)
    enough(*(sum(len(captions.images) for captions in part) for part in (training, dev)))
    folder = cache if cache is not None else default_cache()
    with processes(device):
        towers, class_embeddings, settings = _towers_of(encoder, settings, device)
        resumes = any((out / RUN).glob("*.safetensors"))
        train_features, dev_features = _features(training, dev, towers, folder, views, resumes, observer)
        enough(train_features.image_count, dev_features.image_count)
        with torch.device(device):
            model, history = train(train_features, dev_features, class_embeddings, out / RUN, settings, observer)
        is_first = rank() == 0
    if not is_first:
        return history
    model, draft = model.cpu(), out / RUN / "model"
    shutil.rmtree(draft, ignore_errors=True)
    observer.note("fitting the scorer's estimate and, on dev, the calibration")
    error, fitted = _fit_and_write(model, encoder, towers, train_features, dev_features, settings.seed, draft)
    title = "Heads and scorer of lite" if isinstance(encoder, LiteEncoder) else f"Scorer for {encoder.name}"
    card = model_card(title, sets, train_features, dev_features, settings, history, error, fitted)
    extra = illustrate(history, fitted) | {LOG: log_of(history), CARD: card}
    for name, text in extra.items():
        (draft / name).write_text(text, encoding="utf-8")
    put_in_place(draft, out)
    shutil.rmtree(out / RUN)
    best = ", ".join(f"{epoch.stage} {epoch.number + 1}" for epoch, _ in best_of_stages(history))
    observer.note(f"best epochs: {best}; use it with --model {out}, measure it with `search evaluate --model {out}`")
    return history


def _towers_of(
    encoder: LiteEncoder | OpenClipEncoder, settings: TrainSettings, device: str
) -> tuple[Towers, NDArray[np.float32], TrainSettings]:
    """The encoder's towers, the class embeddings of its heads, and the settings that fit its shapes: an open_clip model
    gets a scorer, but no heads."""
    if isinstance(encoder, LiteEncoder):
        import_faiss()  # fails now and not hours later, when the embedder needs it
        return LiteTowers(encoder, device), encoder.class_embeddings, settings
    towers = OpenClipTowers(encoder)
    cells, channels = towers.cell_shape
    regions = replace(settings.model.regions, cells=cells, channels=channels, global_dim=towers.global_dim)
    heads = replace(settings.model.heads, ensemble=0)
    settings = replace(settings, itc=0.0, model=replace(settings.model, heads=heads, regions=regions))
    return towers, np.zeros((0, DIM), np.float32), settings


def _features(
    training: Sequence[CaptionSet],
    dev: Sequence[CaptionSet],
    towers: Towers,
    cache: Path,
    views: int,
    resumes: bool,
    observer: Observer,
) -> tuple[Features, Features]:
    """The features to train on and to choose by. Rank 0 computes what the cache lacks; the other processes load it.

    resumes: whether the run goes on with what it began with, see `cached_features`."""
    if rank() == 0:
        for name, part, count in (("training", training, views), ("dev", dev, 1)):
            through = steps_of(f"{name} images through the towers", observer)
            reading = steps_of(f"{name} images compared with those seen before", observer)
            cached_features(part, towers, cache, count, through, reading=reading, again=not resumes)
    from_rank_0(None)
    train_features, dev_features = (
        cached_features(part, towers, cache, count, again=False) for part, count in ((training, views), (dev, 1))
    )
    if rank() == 0:
        for line in left_out_lines([*train_features.left_out, *dev_features.left_out]):
            observer.note(line)
        observer.note(_sizes(train_features, dev_features))
        observer.note(
            f"{cache} holds {trim_cache(cache, [train_features, dev_features]) / 1e9:.1f} GB of what the towers see"
        )
    return train_features, dev_features


def _fit_and_write(
    model: Model,
    encoder: LiteEncoder | OpenClipEncoder,
    towers: Towers,
    train_features: Features,
    dev_features: Features,
    seed: int,
    draft: Path,
) -> tuple[float, Fitted]:
    """Fit what follows the training, and write the model directory `draft`. Returns the error of the partition
    estimate, see `fit_estimate`, and the calibration."""
    error = fit_estimate(model.scorer, model.inputs, train_features, seed)
    fit_ranges(model.scorer, model.inputs, train_features, seed)
    if not isinstance(encoder, LiteEncoder):
        fitted = calibrate(model, None, dev_features)
        write_scorer(model, fitted, draft, canonical_name(encoder.name), towers.fingerprint)
        return error, fitted
    images, texts = embed(model.inputs, model.heads, train_features, towers=True)
    familiarity = model.heads.familiarity(torch.from_numpy(texts[-1])).numpy()
    embedder = fit_embedder(images, texts, familiarity, seed)
    fitted = calibrate(model, embedder, dev_features)
    write_model(model, embedder, fitted, draft, towers.fingerprint)
    return error, fitted


def put_in_place(draft: Path, out: Path) -> None:
    """Move a model's files from `draft` to `out`, and remove those of a model of another kind.

    The configuration goes first and comes last: without it a folder is no model."""
    (out / CONFIG).unlink(missing_ok=True)
    for name in {IMAGE_HEAD, TEXT_HEAD, EXPLAINER, ADAPTER} - {path.name for path in draft.iterdir()}:
        (out / name).unlink(missing_ok=True)
    for path in sorted(draft.iterdir(), key=lambda path: path.name == CONFIG):
        put_durably(path, out / path.name)


def enough(images: int, held_out: int) -> None:
    """Raises `CrosslookError` if there are too few images to train on, or held out to choose by."""
    for number, use in ((images, "train on"), (held_out, "choose by")):
        if number < 2:
            raise CrosslookError(f"{number} image{'s' * (number != 1)} to {use}, which is too few: give more of them")


def split_sets(sets: Sequence[CaptionSet]) -> tuple[list[CaptionSet], list[CaptionSet]]:
    """The images to train on, and those to choose the best epoch by: the dev split, or every tenth image if there is
    none. Images of the test split are in neither."""
    usable = [
        replace(captions, images=tuple(image for image in captions.images if image.split != TEST)) for captions in sets
    ]
    has_dev = any(image.split in DEV for captions in usable for image in captions.images)

    def is_dev(index: int, image: CaptionedImage) -> bool:
        return image.split in DEV if has_dev else index % HELD_OUT == HELD_OUT - 1

    def part(captions: CaptionSet, of_dev: bool) -> CaptionSet:
        chosen = (image for index, image in enumerate(captions.images) if is_dev(index, image) == of_dev)
        return replace(captions, images=tuple(chosen))

    return [part(captions, False) for captions in usable], [part(captions, True) for captions in usable]


def default_cache() -> Path:
    """The folder of the towers' outputs in the user's cache."""
    from retrieval.location import cache_folder

    return cache_folder() / "features"


def _sizes(train_features: Features, dev_features: Features) -> str:
    return (
        f"training on {train_features.image_count:,} images in {views_of(train_features)} with "
        f"{train_features.text_count:,} captions, "
        f"choosing on {dev_features.image_count:,} images with {dev_features.text_count:,} captions"
    )


def steps_of(what: str, observer: Observer) -> Callable[[int, int], None]:
    """What reports done and total units of a task to an observer. what: the task, for people."""
    return lambda done, total: observer.step(Step(what, done, total))
