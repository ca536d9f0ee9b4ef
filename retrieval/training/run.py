"""From captioned images to a model directory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from indexes.errors import CrosslookError
from retrieval.captions import CaptionedImage, CaptionSet
from retrieval.encoders import canonical_name
from retrieval.encoders.adapted import ADAPTER
from retrieval.encoders.lite import LiteEncoder
from retrieval.fusion.scorer import EXPLAINER
from retrieval.training.calibrate import Fitted, calibrate
from retrieval.training.embedder import fit_embedder
from retrieval.training.export import CONFIG, IMAGE_HEAD, TEXT_HEAD, write_model, write_scorer
from retrieval.training.features import Features, cached_features
from retrieval.training.heads import DIM
from retrieval.training.loop import DEV_CANDIDATES, LOG, Epoch, TrainSettings, embed, log_of, train
from retrieval.training.towers import LiteTowers, OpenClipTowers, Towers

if TYPE_CHECKING:
    from retrieval.encoders.openclip import OpenClipEncoder

RUN = "run"  # the state to go on from, until the run is finished
DEV = ("dev", "val", "validation")
TEST = "test"
HELD_OUT = 10
TELL_SECONDS = 10.0


def train_model(
    sets: Sequence[CaptionSet],
    encoder: LiteEncoder | OpenClipEncoder,
    out: Path,
    settings: TrainSettings,
    *,
    views: int,
    cache: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    observe: Callable[[Epoch], None] = lambda epoch: None,
    illustrate: Callable[[Sequence[Epoch], Fitted], dict[str, str]] = lambda history, fitted: {},
) -> list[Epoch]:
    """Train heads and scorer for `lite`, or a scorer alone for an open_clip model, calibrate on dev, and write them to
    `out`; returns the history of the run.

    A model that is there already is in force until the new one is whole, and none while its files are replaced; run
    again after a kill, it goes on from the last epoch. illustrate: makes texts of further files from the history and
    the calibration, by name.

    Raises `CrosslookError` when there is too little to train on, `out` holds another run, or is a model of
    open_clip."""
    if (out / "open_clip_config.json").exists():
        raise CrosslookError(f"{out} is a model of open_clip, which would be lost: choose another --out")
    training, dev = split_sets(sets)
    count, held_out_count = (sum(len(each.images) for each in part) for part in (training, dev))
    for number, use in ((count, "train on"), (held_out_count, "choose by")):
        if number < 2:
            raise CrosslookError(f"{number} image{'s' * (number != 1)} to {use}, which is too few: give more of them")
    towers: Towers
    if isinstance(encoder, LiteEncoder):
        towers, class_embeddings = LiteTowers(encoder), encoder.class_embeddings
    else:
        towers, class_embeddings = OpenClipTowers(encoder), np.zeros((0, DIM), np.float32)
        scorer = replace(settings.model.scorer, cells=towers.cells[0], channels=towers.cells[1], whole=towers.whole)
        heads = replace(settings.model.heads, members=0)
        settings = replace(settings, itc=0.0, model=replace(settings.model, heads=heads, scorer=scorer))
    folder = cache if cache is not None else default_cache()
    seen = cached_features(training, towers, folder, views, _teller("training", tell))
    held_out = cached_features(dev, towers, folder, 1, _teller("dev", tell))
    _tell_sizes(seen, held_out, tell)
    if settings.lm and not len(seen.vocabulary):
        tell("hardly any word is in several captions: the scorer learns to compare, not to read")
        if not settings.itm:
            raise CrosslookError("there is nothing to train the scorer on: give more captions, or --itm above 0")
    model, history = train(seen, held_out, class_embeddings, out / RUN, settings, observe)
    draft = out / RUN / "model"
    shutil.rmtree(draft, ignore_errors=True)
    if isinstance(encoder, LiteEncoder):
        tell("fitting the embedder on the training images, and the calibration on dev")
        images, texts = embed(model, seen, towers=True)
        known = model.heads.known(torch.from_numpy(texts[-1])).numpy()
        embedder = fit_embedder(images, texts, known, settings.seed)
        fitted = calibrate(model, embedder, held_out)
        card = model_card("Heads and scorer of lite", sets, seen, held_out, settings, history, fitted)
        write_model(model, embedder, fitted.calibration, draft, towers.fingerprint, card)
    else:
        tell("fitting the calibration on dev")
        fitted = calibrate(model, None, held_out)
        card = model_card(f"Scorer for {encoder.name}", sets, seen, held_out, settings, history, fitted)
        write_scorer(model, fitted.calibration, draft, canonical_name(encoder.name), towers.fingerprint, card)
    extra = illustrate(history, fitted) | {LOG: log_of(history)}
    for name, text in extra.items():
        (draft / name).write_text(text, encoding="utf-8")
    _put_in_place(draft, out)
    shutil.rmtree(out / RUN)
    return history


def _put_in_place(draft: Path, out: Path) -> None:
    """Move a model's files, its configuration last, without which a folder is no model; of another nothing stays."""
    (out / CONFIG).unlink(missing_ok=True)
    for name in {IMAGE_HEAD, TEXT_HEAD, EXPLAINER, ADAPTER} - {path.name for path in draft.iterdir()}:
        (out / name).unlink(missing_ok=True)  # of a model of another kind
    for path in sorted(draft.iterdir(), key=lambda path: path.name == CONFIG):
        path.replace(out / path.name)


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
    from platformdirs import user_cache_path

    return user_cache_path("crosslook", appauthor=False) / "features"


def model_card(
    title: str,
    sets: Sequence[CaptionSet],
    seen: Features,
    held_out: Features,
    settings: TrainSettings,
    history: Sequence[Epoch],
    fitted: Fitted,
) -> str:
    """What anyone who uses the weights should know, as far as the run can tell."""
    best, trained = max(history, key=lambda epoch: epoch.quality), settings.model.heads.members > 0
    sources = "\n".join(f"- {each.source.parent.name}/{each.source.name} ({each.format})" for each in sets)
    bins = "\n".join(
        f"| {100 * predicted:.1f} | {100 * observed:.1f} | {count:,} |"
        for predicted, observed, count in zip(
            fitted.first.predicted, fitted.first.observed, fitted.first.count, strict=True
        )
        if count
    )
    return (
        f"# {title}\n\n"
        f"Trained by `search train` on {seen.images:,} images in {len(seen.cells)} views with {len(seen.texts):,} "
        f"captions; the best epoch ({best.number + 1} of {len(history)}) was chosen, and the calibration fitted, on "
        f"{held_out.images:,} other images. Seed {settings.seed}. The terms of the images apply to what may be done "
        "with the weights.\n\n"
        f"Sources:\n\n{sources}\n\n"
        f"R@1 on the images it was chosen on, in percent: text -> image {100 * best.text_to_image:.1f} and image -> "
        f"text {100 * best.image_to_text:.1f} by similarity{', which was not trained' * (not trained)}; of one caption "
        f"an image, {100 * best.reranked:.1f} after the scorer saw the nearest {DEV_CANDIDATES}.\n\n"
        "Expected calibration error of `match` on those images, each judged by a calibration fitted on the other half "
        f"of them: {100 * fitted.pairs.error:.2f} points of percentage over all candidates of all captions, "
        f"{100 * fitted.first.error:.1f} over the first hits alone. Of these, in percent:\n\n"
        f"| match | share that did match | first hits |\n|---|---|---|\n{bins}\n"
    )


def _tell_sizes(seen: Features, held_out: Features, tell: Callable[[str], None]) -> None:
    tell(
        f"training on {seen.images:,} images in {len(seen.cells)} views with {len(seen.texts):,} captions, choosing by "
        f"{held_out.images:,} with {len(held_out.texts):,}"
    )


def _teller(what: str, tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """Tells every few seconds."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > TELL_SECONDS:
            last = time.monotonic()
            tell(f"{what}: {done:,} of {total:,} seen by the towers")

    return progress
