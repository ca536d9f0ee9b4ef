"""The model card of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrieval.training.learning.loop import best_of_stages
from retrieval.training.learning.scorer_stage import DEV_CANDIDATES
from retrieval.training.watching import Epoch

if TYPE_CHECKING:
    from retrieval.captions import CaptionSet
    from retrieval.training.data.features import Features
    from retrieval.training.fitting.calibrate import Fitted
    from retrieval.training.learning.settings import TrainSettings


def model_card(
    title: str,
    sets: Sequence[CaptionSet],
    seen: Features,
    held_out: Features,
    settings: TrainSettings,
    history: Sequence[Epoch],
    estimate_error: float,
    fitted: Fitted,
) -> str:
    """What anyone who uses the weights should know, as far as the run can tell. estimate_error: see `fit_estimate`."""
    sources = "\n".join(f"- {each.source.parent.name}/{each.source.name} ({each.format})" for each in sets)
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
        f"Trained by `search train` on {seen.images:,} images in {len(seen.cells)} views with {len(seen.texts):,} "
        f"captions; the best epoch of each stage was chosen, and the calibration fitted, on {held_out.images:,} other "
        f"images. Seed {settings.seed}. The terms of the images apply to what may be done "
        "with the weights.\n\n"
        f"Sources:\n\n{sources}\n\n"
        f"R@1 on the images it was chosen on, in percent; of the scorer after it saw the "
        f"nearest {DEV_CANDIDATES}:\n\n| stage | best epoch | |\n|---|---|---|\n{stages}\n\n"
        f"The scorer estimates what its probabilities are divided by, with an error of {estimate_error:.3f} nats a "
        "word.\n\n"
        "Expected calibration error of `match` on those images, each judged by a calibration fitted on the other half "
        f"of them: {100 * fitted.pairs.error:.2f} points of percentage over all candidates of all captions, "
        f"{100 * fitted.first.error:.1f} over the first hits alone. Of these, in percent:\n\n"
        f"| match | share that did match | first hits |\n|---|---|---|\n{bins}\n"
    )
