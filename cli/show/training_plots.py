"""Plots of a training run for its model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.show.plots import bar_plot, line_plot

if TYPE_CHECKING:
    from retrieval.calibration import Reliability
    from retrieval.progress import Epoch
    from retrieval.training.fitting.calibrate import Fitted


def training_plots(history: Sequence[Epoch], fitted: Fitted) -> dict[str, str]:
    """SVG files by name: R@1 of dev by epoch, and the reliability of `match`."""
    return {"run.svg": _run_plot(history), "reliability.svg": _reliability_plot(fitted.first)}


def _run_plot(history: Sequence[Epoch]) -> str:
    """The run as SVG: R@1 of dev by epoch."""
    curves: dict[str, list[float]] = {}
    for epoch in history:
        for name, value in epoch.dev.items():
            curves.setdefault(f"{epoch.stage}, {name}", []).append(value)
    longest = max(len(values) for values in curves.values())
    return line_plot(range(1, longest + 1), curves, "epoch of the stage", "R@1 of dev")


def _reliability_plot(first: Reliability) -> str:
    """The reliability of `match` as SVG: for each bin of first hits, the mean `match` and the share that did match, in
    percent."""
    width = 100 / len(first.count)
    bins = enumerate(zip(first.predicted, first.observed, first.count, strict=True))
    groups = {
        f"to {width * (i + 1):.0f}": [100 * predicted, 100 * observed]
        for i, (predicted, observed, count) in bins
        if count
    }
    return bar_plot(groups, ["match", "did match"], "reliability of match, percent")
