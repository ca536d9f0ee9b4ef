"""The page of an evaluation: figures, plots and the worst failures."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.show.evaluation_text import EXPLANATION, TITLES, cell, left_out_lines
from cli.show.output import printable, write_file
from cli.show.page import document, thumbnail
from cli.show.plots import bar_plot, line_plot
from retrieval.evaluation.metrics import measure_named

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrieval.evaluation.evaluate import Direction, Evaluation

FAILURES = 50
CURVE_KS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)


def write_evaluation_page(path: Path, evaluation: Evaluation, figures: dict[str, Any]) -> None:
    """Write one self-contained HTML file. figures: the record of the evaluation."""
    parts = [
        f"<p>{escape(printable(str(evaluation.captions.source)))} ({escape(evaluation.captions.format)}): "
        f"{figures['images']:,} images, {figures['captions']:,} captions. "
        f"Model {escape(evaluation.model)} ({evaluation.fingerprint}).</p>",
        *(f"<p>{escape(line)}</p>" for line in left_out_lines(evaluation.left_out)),
        *(_table(TITLES[name], figures[name]) for name in TITLES),
        f"<p><small>{escape(' '.join(EXPLANATION))}</small></p>",
        "<h2>Recall against k</h2>",
        _recall_plot(evaluation),
        "<h2>Milliseconds of a single query</h2>",
        _latency_plot(figures["latency_ms"]),
        f"<h2>The {FAILURES} worst failures</h2>",
        _failures(evaluation),
    ]
    write_file(path, document("Evaluation", "\n".join(parts)))


def _table(title: str, direction: dict[str, Any]) -> str:
    stages = [name for name in ("base", "reranked", "gain") if direction[name] is not None]
    scales = {name: measure_named(name).scale for name in direction["base"]}
    head = "".join(f"<th>{name}" for name in ("", *stages))
    rows = [
        f"<tr><th>{name}" + "".join(f"<td>{cell(direction[stage][name], scale, stage == 'gain')}" for stage in stages)
        for name, scale in scales.items()
    ]
    return f"<h2>{escape(title)}</h2><table><tr>{head}{''.join(rows)}</table>"


def _recall_plot(evaluation: Evaluation) -> str:
    from retrieval.evaluation.metrics import success_at

    curves = {}
    for name, title in TITLES.items():
        direction: Direction = getattr(evaluation, name)
        stages = (
            {"": direction.base}
            if direction.reranked is None
            else {
                ", base": direction.base,
                ", reranked": direction.reranked,
            }
        )
        for stage, ranks in stages.items():
            curves[title + stage] = [float(np.mean(success_at(ranks, k))) for k in CURVE_KS]
    return line_plot(CURVE_KS, curves, "k", "R@k")


def _latency_plot(latency: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(latency.values())))
    return bar_plot({stage: list(taken.values()) for stage, taken in latency.items()}, names, "milliseconds by stage")


def _failures(evaluation: Evaluation) -> str:
    """The captions whose image ranked last, with the image that came first and the right one."""
    direction = evaluation.text_to_image
    ranks: NDArray[np.float64] = direction.final.ranks
    worst = [int(query) for query in np.argsort(-ranks, kind="stable")[:FAILURES] if ranks[query] > 1]
    texts = evaluation.texts
    rows = []
    for query in worst:
        right, first = int(direction.image_of_query[query]), int(direction.first[query])
        rows.append(
            f"<h3>{escape(texts[query])}</h3>\n<ol>"
            f"<li>{_picture(evaluation, first)}<small>came first</small>"
            f"<li>{_picture(evaluation, right)}<small>right, at rank {ranks[query]:,.0f}</small></ol>"
        )
    return "\n".join(rows) or "<p>None: every image came first.</p>"


def _picture(evaluation: Evaluation, image: int) -> str:
    from indexes.errors import CrosslookError
    from retrieval.captions import read_image_bytes

    chosen = evaluation.images[image]
    try:
        content = read_image_bytes(evaluation.captions, chosen)
    except CrosslookError:
        content = None
    return thumbnail(content, printable(Path(chosen.image).name))
