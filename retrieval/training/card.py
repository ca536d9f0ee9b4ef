"""The model card of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrieval.progress import Epoch
from retrieval.training.learning.loop import best_of_stages
from retrieval.training.learning.scorer_stage import DEV_CANDIDATES

if TYPE_CHECKING:
    from retrieval.captions import CaptionSet
    from retrieval.training.data.features import Features
    from retrieval.training.fitting.calibrate import Fitted
    from retrieval.training.learning.settings import TrainSettings


def model_card(
    title: str,
    sets: Sequence[CaptionSet],
    train_features: Features,
    dev_features: Features,
    settings: TrainSettings,
    history: Sequence[Epoch],
    estimate_error: float,
    fitted: Fitted,
) -> str:
    """What a user of the weights should know, as far as the run can tell, in Markdown.

    train_features: features trained on. dev_features: features that epochs were chosen on. estimate_error: see
    `fit_estimate`."""
    bins = "\n".join(
        f"| {100 * predicted:.1f} | {100 * observed:.1f} | {count:,} |"
        for predicted, observed, count in zip(
            fitted.first.predicted, fitted.first.observed, fitted.first.count, strict=True
        )
        if count
    )
    stages = "\n".join(
        f"| {best.stage} | {best.number + 1} of {count} | "
        f"{', '.join(f'{name} {100 * value:.1f}' for name, value in best.dev.items())} |"
        for best, count in best_of_stages(history)
    )
    return (
        f"# {title}\n\n"
        f"Trained by `search train` on {train_features.image_count:,} images in {views_of(train_features)} with "
        f"{train_features.text_count:,} captions; the best epoch of each stage was chosen, and the calibration fitted, "
        f"on {dev_features.image_count:,} other images. Seed {settings.seed}. The terms of the images also apply to "
        "using the weights.\n\n"
        f"Sources:\n\n{sources_of(sets)}\n\n"
        "R@1 on the images that the epochs were chosen on, in percent. The scorer's is measured after it re-ranked the "
        f"nearest {DEV_CANDIDATES}:\n\n| stage | best epoch | |\n|---|---|---|\n{stages}\n\n"
        "The scorer estimates the log of its softmax's partition function, with an error of "
        f"{estimate_error:.3f} nats a token.\n\n"
        "Expected calibration error of `match` on those images, where each half of them is judged by a calibration "
        f"fitted on the other half: {100 * fitted.pairs.error:.2f} percentage points over all candidates of all "
        f"captions, and {100 * fitted.first.error:.1f} over the first hits alone. The first hits, in percent:\n\n"
        f"| match | share that did match | first hits |\n|---|---|---|\n{bins}\n"
    )


def sources_of(sets: Sequence[CaptionSet]) -> str:
    """A line for each source, with the name of its folder, which a relative path may lack."""
    paths = [captions.source.resolve() for captions in sets]
    return "\n".join(
        f"- {path.parent.name}/{path.name} ({captions.format})" for path, captions in zip(paths, sets, strict=True)
    )


def views_of(features: Features) -> str:
    """How many views of each image there are, for people."""
    count = len(features.cells)
    return f"{count} view{'' if count == 1 else 's'}"
