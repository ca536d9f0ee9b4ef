"""`search evaluate CAPTIONS`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Candidates, Device, Index, Model, Rerank, Scorer, collection_path, refuse_scorer, typed_path
from cli.show.output import note, write_file, write_line


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
    scorer: Scorer = None,
    device: Device = "auto",
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
    import tempfile  # takes longer to import than all commands

    from cli.show.evaluation_text import evaluation_lines
    from cli.show.progress import progress_display
    from retrieval.captions import read_captions
    from retrieval.encoders import DEFAULT_MODEL, load_encoder
    from retrieval.evaluation.evaluate import evaluate as run
    from retrieval.evaluation.record import record
    from retrieval.fusion import load_scorer
    from retrieval.fusion.base import fault_of
    from retrieval.maintenance import model_of
    from retrieval.progress import Observer

    ks = _parse_ks(k)
    refuse_scorer(scorer, rerank)
    for target in (json_file, html_file):
        if target is not None and not target.absolute().parent.is_dir():
            raise typer.BadParameter(f"{target.parent} is no folder")
    caption_set = read_captions(captions, images_dir=images, split=split, limit=limit)
    path = collection_path(index)
    encoder = load_encoder(model or model_of(path) or DEFAULT_MODEL, device, note)
    fusion = load_scorer(encoder, scorer, device, many_pairs=True) if rerank else None
    of_single = load_scorer(encoder, None, device) if rerank and scorer is None else None  # of a query with this device
    with tempfile.TemporaryDirectory(prefix="crosslook-") as workspace:
        with progress_display() as display:
            observer = Observer(progress=display.progress, failure=display.failure)
            evaluation = run(
                caption_set,
                encoder,
                Path(workspace),
                index=path,
                scorer=fusion,
                candidates=candidates,
                strict=strict,
                device=device,
                of_single=of_single,
                observer=observer,
            )
        figures = record(evaluation, ks)
    if json_file is not None:
        write_file(json_file, json.dumps(figures) + "\n")
    if html_file is not None:
        from cli.show.evaluation_page import write_evaluation_page

        write_evaluation_page(html_file, evaluation, figures)
    for line in evaluation_lines(evaluation, figures):
        write_line(line)
    if fusion is not None and (fault := fault_of(fusion)) is not None:
        note(f"slower than necessary, since the processor scores: {fault}")
    note(f"embeddings were {'taken from the collection' if evaluation.from_index else 'computed for this run'}")


def _parse_ks(text: str) -> tuple[int, ...]:
    try:
        ks = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        ks = ()
    if not ks or ks[0] < 1:
        raise typer.BadParameter(f"{text!r}: give whole numbers from 1, such as 1,5,10", param_hint="--k")
    return ks
