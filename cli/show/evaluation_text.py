"""The figures of an evaluation as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cli.show.output import plural, printable
from retrieval.evaluation.metrics import measure_named

if TYPE_CHECKING:
    from retrieval.captions import Skipped
    from retrieval.evaluation.evaluate import Evaluation

TITLES = {"text_to_image": "text -> image", "image_to_text": "image -> text"}
EXPLANATION = (
    "R@k: percentage of queries with a right item in the first k, which papers call recall (it is Success@k).",
    "recall@k: percentage of a query's right items in the first k. MRR and nDCG in percent. Of equal scores, wrong",
    "items come first. Brackets: 95% interval, bootstrap over images.",
)


def evaluation_lines(evaluation: Evaluation, figures: dict[str, Any]) -> Iterator[str]:
    """What `search evaluate` prints. figures: the record of the evaluation."""
    splits = sorted({image.split for image in evaluation.images if image.split})
    of_split = f", split {' and '.join(splits)}" if splits else ""
    source = printable(str(evaluation.captions.source))
    yield f"{source} ({evaluation.captions.format}{of_split})"
    yield f"{plural(figures['images'], 'image')}, {plural(figures['captions'], 'caption')}"
    yield f"model {evaluation.model} ({evaluation.fingerprint}), {_second_stage(evaluation)}"
    yield from left_out_lines(evaluation.left_out)
    for name, title in TITLES.items():
        yield ""
        yield from table(title, figures[name])
    yield ""
    yield "milliseconds of a single query  " + "      ".join(f"p{rank}" for rank in (50, 95, 99))
    for stage, percentiles in figures["latency_ms"].items():
        yield f"  {stage:<28}" + "".join(f"{value:8.2f}" for value in percentiles.values())
    recall = figures["ann_recall"]
    yield "search is exact" if recall is None else f"ANN recall@10 against exact search: {recall:.3f}"
    yield ""
    yield from EXPLANATION


def _second_stage(evaluation: Evaluation) -> str:
    n = evaluation.candidates
    where = "" if evaluation.scorer_device in (None, "cpu") else f" on {evaluation.scorer_device}"
    return "ranked by similarity: no scorer" if n is None else f"{n} candidates re-ranked{where}"


def left_out_lines(left_out: Sequence[Skipped]) -> list[str]:
    """What is not evaluated: a count and the first names for each reason."""
    from retrieval import captions

    return [printable(line) for line in captions.left_out_lines(left_out)]


def table(title: str, direction: dict[str, Any]) -> list[str]:
    """The lines of one direction: every measure; with a scorer, base -> reranked and the gain."""
    scales = {name: measure_named(name).scale for name in direction["base"]}
    if direction["reranked"] is None:
        rows = [(name, cell(value, scales[name])) for name, value in direction["base"].items()]
        return [title, *(f"  {name:<12}  {value}" for name, value in rows)]
    lines = [f"{title:<14}  {'base':<22} -> {'reranked':<22}  gain"]
    for name, scale in scales.items():
        base, reranked = cell(direction["base"][name], scale), cell(direction["reranked"][name], scale)
        lines.append(f"  {name:<12}  {base:<22} -> {reranked:<22}  {cell(direction['gain'][name], scale, signed=True)}")
    return [*lines, f"  ceiling of the first stage: {cell(direction['ceiling'], 100)}"]


def cell(interval: dict[str, float | None], scale: int, signed: bool = False) -> str:
    """A figure and its interval, multiplied by the scale of its measure."""
    value, low, high = (
        "-" if number is None else f"{number * scale:{'+' if signed else ''}.1f}"
        for number in (interval["value"], interval["low"], interval["high"])
    )
    return f"{value:>6} [{low}, {high}]"
