"""`search evaluate CAPTIONS`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Candidates, Index, Model, Rerank, collection_path, typed_path
from cli.show.output import note, plural, printable, write_file, write_line

if TYPE_CHECKING:
    from retrieval.captions import Skipped
    from retrieval.evaluation.evaluate import Evaluation

TITLES = {"text_to_image": "text -> image", "image_to_text": "image -> text"}
NAMED = 5
EXPLANATION = (
    "R@k: percentage of queries with a right item in the first k, which papers call recall (it is Success@k).",
    "recall@k: percentage of a query's right items in the first k. MRR and nDCG in percent. Of equal scores, wrong",
    "items come first. Brackets: 95% interval, bootstrap over images.",
)


def evaluate(
    captions: Annotated[
        Path,
        typer.Argument(
            metavar="CAPTIONS", parser=typed_path, help="Captioned images: a captions file, a folder or tar shards."
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", parser=typed_path, help="The images' folder [default: the captions file's own]."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split, such as dev or test.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    k: Annotated[str, typer.Option("--k", help="The k of R@k, separated by commas.")] = "1,5,10",
    index: Index = None,
    model: Model = None,
    candidates: Candidates = 100,
    rerank: Rerank = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    strict: Annotated[bool, typer.Option(help="An error when anything of the set has to be left out.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", parser=typed_path, help="Write all figures as JSON.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", parser=typed_path, help="Write a page with plots.")
    ] = None,
) -> None:
    """Measure how well images are found by their captions, and captions by their images.

    Embeddings are taken from the collection if it holds all the images, unchanged, under the same model; else they are
    computed for this run."""
    import tempfile  # which takes longer to import than all commands

    from cli.show.progress import progress_display
    from retrieval.captions import read_captions
    from retrieval.encoders import DEFAULT_MODEL, load_encoder
    from retrieval.evaluation.evaluate import evaluate as run
    from retrieval.evaluation.record import record
    from retrieval.fusion import own_scorer
    from retrieval.maintenance import model_of
    from retrieval.progress import Observer

    ks = _parse_ks(k)
    for target in (json_file, html_file):
        if target is not None and not target.absolute().parent.is_dir():
            raise typer.BadParameter(f"{target.parent} is no folder")
    found = read_captions(captions, images_dir=images, split=split, limit=limit)
    path = collection_path(index)
    encoder = load_encoder(model or model_of(path) or DEFAULT_MODEL, device, note)
    scorer = own_scorer(encoder) if rerank else None
    with tempfile.TemporaryDirectory(prefix="crosslook-") as workspace:
        with progress_display() as display:
            observer = Observer(display.progress, display.failure)
            evaluation = run(
                found,
                encoder,
                Path(workspace),
                index=path,
                scorer=scorer,
                candidates=candidates,
                strict=strict,
                observer=observer,
            )
        figures = record(evaluation, ks)
    if json_file is not None:
        write_file(json_file, json.dumps(figures) + "\n")
    if html_file is not None:
        from cli.show.evaluation_page import write_evaluation_page

        write_evaluation_page(html_file, evaluation, figures)
    _print(evaluation, figures)


def _parse_ks(text: str) -> tuple[int, ...]:
    try:
        ks = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        ks = ()
    if not ks or ks[0] < 1:
        raise typer.BadParameter(f"{text!r}: give whole numbers from 1, such as 1,5,10", param_hint="--k")
    return ks


def _print(evaluation: Evaluation, figures: dict[str, Any]) -> None:
    split = {image.split for image in evaluation.images} - {None}
    of_split = f", split {' and '.join(sorted(filter(None, split)))}" if split else ""
    source = printable(str(evaluation.captions.source))
    write_line(f"{source} ({evaluation.captions.format}{of_split})")
    write_line(f"{plural(figures['images'], 'image')}, {plural(figures['captions'], 'caption')}")
    write_line(f"model {evaluation.model} ({evaluation.fingerprint}), {_second_stage(evaluation)}")
    for line in left_out_lines(evaluation.left_out):
        write_line(line)
    for name, title in TITLES.items():
        write_line("")
        for line in table(title, figures[name]):
            write_line(line)
    write_line("")
    write_line("milliseconds of a single query  " + "      ".join(f"p{rank}" for rank in (50, 95, 99)))
    for stage, taken in figures["latency_ms"].items():
        write_line(f"  {stage:<28}" + "".join(f"{value:8.2f}" for value in taken.values()))
    recall = figures["ann_recall"]
    write_line("search is exact" if recall is None else f"ANN recall@10 against exact search: {recall:.3f}")
    write_line("")
    for line in EXPLANATION:
        write_line(line)
    note(f"embeddings were {'taken from the collection' if evaluation.from_index else 'computed for this run'}")


def _second_stage(evaluation: Evaluation) -> str:
    n = evaluation.candidates
    return "ranked by similarity: no scorer" if n is None else f"{n} candidates re-ranked"


def left_out_lines(left_out: Sequence[Skipped]) -> list[str]:
    """What is not evaluated, counted by reason, with the first names."""
    lines = []
    for why, count in Counter(item.why for item in left_out).items():
        names = [printable(item.what) for item in left_out if item.why == why]
        more = ", ..." if count > NAMED else ""
        lines.append(f"left out: {count:,} x {printable(why)}: {', '.join(names[:NAMED])}{more}")
    return lines


def table(title: str, direction: dict[str, Any]) -> list[str]:
    """The lines of one direction: every measure, and with a scorer base -> reranked and the gain."""
    if direction["reranked"] is None:
        rows = [(name, cell(name, value)) for name, value in direction["base"].items()]
        return [title, *(f"  {name:<12}  {value}" for name, value in rows)]
    lines = [f"{title:<14}  {'base':<22} -> {'reranked':<22}  gain"]
    for name, base in direction["base"].items():
        reranked, gain = cell(name, direction["reranked"][name]), cell(name, direction["gain"][name], signed=True)
        lines.append(f"  {name:<12}  {cell(name, base):<22} -> {reranked:<22}  {gain}")
    return [*lines, f"  ceiling of the first stage: {cell('R@N', direction['ceiling'])}"]


def cell(name: str, interval: dict[str, float | None], signed: bool = False) -> str:
    """A figure and its interval: shares in percent, ranks as they are."""
    scale, digits = (1, 1) if name.endswith("rank") else (100, 1)
    value, low, high = (
        "-" if number is None else f"{number * scale:{'+' if signed else ''}.{digits}f}"
        for number in (interval["value"], interval["low"], interval["high"])
    )
    return f"{value:>6} [{low}, {high}]"
