"""From captioned images to a model directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from indexes.errors import CrosslookError
from indexes.faiss_module import import_faiss
from indexes.files import put_durably
from retrieval.captions import CaptionedImage, CaptionSet, left_out_lines
from retrieval.encoders import canonical_name
from retrieval.encoders.adapted import ADAPTER
from retrieval.encoders.lite import LiteEncoder
from retrieval.fusion.scorer import EXPLAINER
from retrieval.progress import Step
from retrieval.training.card import model_card
from retrieval.training.data.features import Features, cached_features, trim_cache
from retrieval.training.data.towers import LiteTowers, OpenClipTowers, Towers
from retrieval.training.export import CONFIG, IMAGE_HEAD, TEXT_HEAD, write_model, write_scorer
from retrieval.training.fitting.calibrate import Fitted, calibrate
from retrieval.training.fitting.embedder import fit_embedder
from retrieval.training.fitting.estimate import fit_estimate
from retrieval.training.inference import embed
from retrieval.training.learning.loop import LOG, best_of_stages, log_of
from retrieval.training.learning.parallel import of_first, processes, rank
from retrieval.training.learning.settings import TrainSettings
from retrieval.training.learning.train import train
from retrieval.training.model.heads import DIM
from retrieval.training.model.integer_reader import fit_ranges
from retrieval.training.watching import UNWATCHED, Epoch, Watcher

if TYPE_CHECKING:
    from retrieval.encoders.openclip import OpenClipEncoder

CARD = "README.md"
RUN = "run"  # the state to go on from, until the run is finished
DEV = ("dev", "val", "validation")
TEST = "test"
HELD_OUT = 10


def train_model(
    sets: Sequence[CaptionSet],
    encoder: LiteEncoder | OpenClipEncoder,
    out: Path,
    settings: TrainSettings,
    *,
    views: int,
    cache: Path | None = None,
    device: str = "cpu",
    watcher: Watcher = UNWATCHED,
    illustrate: Callable[[Sequence[Epoch], Fitted], dict[str, str]] = lambda history, fitted: {},
) -> list[Epoch]:
    """Train heads and scorer for `lite`, or a scorer alone for an open_clip model, calibrate on dev, and write them to
    `out`; returns the history of the run.

    A model that is there already is in force until the new one is whole, and none while its files are replaced; run
    again after a kill, it goes on from the last epoch. Images that cannot be read are left out, counted and named.
    illustrate: makes texts of further files from the history and the calibration, by name.

    Raises `CrosslookError` when there is too little to train on, `out` holds another run, or is a model of
    open_clip."""
    if (out / "open_clip_config.json").exists():
        raise CrosslookError(f"{out} is a model of open_clip, which would be lost: choose another --out")
    training, dev = split_sets(sets)
    enough(*(sum(len(each.images) for each in part) for part in (training, dev)))
    towers: Towers
    if isinstance(encoder, LiteEncoder):
        import_faiss()  # which the embedder needs in the end
        towers, class_embeddings = LiteTowers(encoder), encoder.class_embeddings
    else:
        towers, class_embeddings = OpenClipTowers(encoder), np.zeros((0, DIM), np.float32)
        regions = replace(settings.model.regions, cells=towers.cells[0], channels=towers.cells[1], whole=towers.whole)
        heads = replace(settings.model.heads, members=0)
        settings = replace(settings, itc=0.0, model=replace(settings.model, heads=heads, regions=regions))
    folder = cache if cache is not None else default_cache()
    with processes(device):
        if rank() == 0:  # before the others, which find them in the cache
            again = not any((out / RUN).glob("*.safetensors"))
            cached_features(training, towers, folder, views, _steps("training", watcher), again=again)
            cached_features(dev, towers, folder, 1, _steps("dev", watcher), again=again)
        of_first(None)
        seen, held_out = (
            cached_features(part, towers, folder, count, again=False) for part, count in ((training, views), (dev, 1))
        )
        if rank() == 0:
            for line in left_out_lines([*seen.left_out, *held_out.left_out]):
                watcher.note(line)
            watcher.note(_sizes(seen, held_out))
            watcher.note(f"{folder} holds {trim_cache(folder, [seen, held_out]) / 1e9:.1f} GB of what the towers see")
        enough(seen.images, held_out.images)
        with torch.device(device):
            model, history = train(seen, held_out, class_embeddings, out / RUN, settings, watcher)
        is_first = rank() == 0
    if not is_first:
        return history
    model, draft = model.cpu(), out / RUN / "model"
    shutil.rmtree(draft, ignore_errors=True)
    watcher.note("fitting the scorer's estimate and, on dev, the calibration")
    error = fit_estimate(model.scorer, model.inputs, seen, settings.seed)
    fit_ranges(model.scorer, model.inputs, seen, settings.seed)
    if isinstance(encoder, LiteEncoder):
        images, texts = embed(model.inputs, model.heads, seen, towers=True)
        known = model.heads.known(torch.from_numpy(texts[-1])).numpy()
        embedder = fit_embedder(images, texts, known, settings.seed)
        fitted, title = calibrate(model, embedder, held_out), "Heads and scorer of lite"
        write_model(model, embedder, fitted, draft, towers.fingerprint)
    else:
        fitted, title = calibrate(model, None, held_out), f"Scorer for {encoder.name}"
        write_scorer(model, fitted, draft, canonical_name(encoder.name), towers.fingerprint)
    card = model_card(title, sets, seen, held_out, settings, history, error, fitted)
    extra = illustrate(history, fitted) | {LOG: log_of(history), CARD: card}
    for name, text in extra.items():
        (draft / name).write_text(text, encoding="utf-8")
    _put_in_place(draft, out)
    shutil.rmtree(out / RUN)
    best = ", ".join(f"{epoch.stage} {epoch.number + 1}" for epoch, _ in best_of_stages(history))
    watcher.note(f"best epochs: {best}; use it with --model {out}, measure it with `search evaluate --model {out}`")
    return history


def _put_in_place(draft: Path, out: Path) -> None:
    """Move a model's files, its configuration last, without which a folder is no model; of another nothing stays."""
    (out / CONFIG).unlink(missing_ok=True)
    for name in {IMAGE_HEAD, TEXT_HEAD, EXPLAINER, ADAPTER} - {path.name for path in draft.iterdir()}:
        (out / name).unlink(missing_ok=True)  # of a model of another kind
    for path in sorted(draft.iterdir(), key=lambda path: path.name == CONFIG):
        put_durably(path, out / path.name)


def enough(images: int, held_out: int) -> None:
    """Raises `CrosslookError` when there are too few images to train on or to choose by."""
    for number, use in ((images, "train on"), (held_out, "choose by")):
        if number < 2:
            raise CrosslookError(f"{number} image{'s' * (number != 1)} to {use}, which is too few: give more of them")


def split_sets(sets: Sequence[CaptionSet]) -> tuple[list[CaptionSet], list[CaptionSet]]:
    """What to train on, and what to choose the best epoch by: the images of a dev split, or every tenth one."""
    usable = [replace(each, images=tuple(image for image in each.images if image.split != TEST)) for each in sets]
    has_dev = any(image.split in DEV for each in usable for image in each.images)

    def is_dev(index: int, image: CaptionedImage) -> bool:
        return image.split in DEV if has_dev else index % HELD_OUT == HELD_OUT - 1

    def part(each: CaptionSet, of_dev: bool) -> CaptionSet:
        chosen = (image for index, image in enumerate(each.images) if is_dev(index, image) == of_dev)
        return replace(each, images=tuple(chosen))

    return [part(each, False) for each in usable], [part(each, True) for each in usable]


def default_cache() -> Path:
    from retrieval.location import cache_folder

    return cache_folder() / "features"


def _sizes(seen: Features, held_out: Features) -> str:
    return (
        f"training on {seen.images:,} images in {len(seen.cells)} views with {len(seen.texts):,} captions, choosing by "
        f"{held_out.images:,} with {len(held_out.texts):,}"
    )


def _steps(what: str, watcher: Watcher) -> Callable[[int, int], None]:
    return lambda done, total: watcher.step(Step(f"{what} seen by the towers", done, total))
