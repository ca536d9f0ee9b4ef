"""From captioned images to a model directory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from indexes.errors import CrosslookError
from retrieval.captions import CaptionedImage, CaptionSet
from retrieval.encoders.lite import LiteEncoder
from retrieval.training.export import write_model
from retrieval.training.features import Features, cached_features
from retrieval.training.loop import LOG, Epoch, TrainSettings, train

RUN = "run"  # the state to go on from, until the run is finished
DEV = ("dev", "val", "validation")
TEST = "test"
HELD_OUT = 10
TELL_SECONDS = 10.0


def train_heads(
    sets: Sequence[CaptionSet],
    out: Path,
    *,
    epochs: int,
    views: int,
    seed: int,
    cache: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    observe: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Train heads for `lite` and write them to `out`; returns the history of the run.

    Raises `CrosslookError` when there is too little to train on, or `out` holds another run."""
    training, dev = split_sets(sets)
    settings = TrainSettings(epochs=epochs, seed=seed)
    count = sum(len(each.images) for each in training)
    if count < 2 or not any(each.images for each in dev):
        raise CrosslookError(f"{count} images to train on, which is too few: give more captioned images")
    settings = replace(settings, batch=min(settings.batch, count))
    towers = LiteEncoder(device="cpu")
    folder = cache if cache is not None else default_cache()
    seen = cached_features(training, towers, folder, views, _teller("training images", tell))
    held_out = cached_features(dev, towers, folder, 1, _teller("dev images", tell))
    _tell_sizes(seen, held_out, tell)
    heads, history = train(seen, held_out, towers.class_embeddings, out / RUN, settings, observe)
    write_model(heads, out, towers.tower_fingerprint, model_card(sets, seen, held_out, settings, history))
    (out / RUN / LOG).replace(out / LOG)
    shutil.rmtree(out / RUN)
    return history


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
    sets: Sequence[CaptionSet], seen: Features, held_out: Features, settings: TrainSettings, history: Sequence[Epoch]
) -> str:
    """What anyone who uses the weights should know, as far as the run can tell."""
    best = max(history, key=lambda epoch: epoch.quality)
    sources = "\n".join(f"- {each.source.parent.name}/{each.source.name} ({each.format})" for each in sets)
    return (
        "# Heads of lite\n\n"
        f"Trained by `search train` on {seen.images:,} images in {len(seen.cells)} views with {len(seen.texts):,} "
        f"captions; the best epoch ({best.number + 1} of {len(history)}) was chosen on {held_out.images:,} other "
        f"images. Seed {settings.seed}. The terms of the images apply to what may be done with the weights.\n\n"
        f"Sources:\n\n{sources}\n\n"
        f"R@1 on the images it was chosen on: text -> image {100 * best.text_to_image:.1f}, image -> text "
        f"{100 * best.image_to_text:.1f}, in percent.\n"
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
            tell(f"{done:,} of {total:,} views of {what}")

    return progress
