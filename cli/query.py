"""`search "a dog on a beach"`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.being_indexed import BeingIndexedError, being_indexed, reported_if_being_indexed
from cli.options import (
    Candidates,
    Device,
    Index,
    Json,
    Rerank,
    Scorer,
    collection_path,
    name_or_path,
    refuse_scorer,
    typed_path,
)
from cli.process.statuses import NOTHING_FOUND
from cli.process.streams import on_terminal
from cli.show.hits import print_json, print_lines, print_paths, print_table
from cli.show.output import note, percent, plural
from indexes.errors import CrosslookError

if TYPE_CHECKING:
    from retrieval.engine import Engine
    from retrieval.query import Results

DOUBTFUL = 0.01  # a best match below it gets a warning; the model card shows what lies above and below


def query(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY", help="What to look for, in plain words.")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-", parser=name_or_path, help="Answer one query a line of a file, or of stdin, as JSON."
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", help="How many results.")] = 10,
    index: Index = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", parser=name_or_path, help="Fail unless the collection was made with this model."),
    ] = None,
    in_folder: Annotated[
        Path | None,
        typer.Option("--in", metavar="FOLDER", parser=typed_path, help="Only images in this folder."),
    ] = None,
    candidates: Candidates = 100,
    rerank: Rerank = True,
    scorer: Scorer = None,
    device: Device = "auto",
    min_match: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out results that match with a lower probability, 0 to 1.")
    ] = 0.0,
    as_json: Json = False,
    paths: Annotated[bool, typer.Option("--paths", help="Paths only, one a line.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Paths only, each ended by a NUL byte.")] = False,
) -> None:
    """Find the images that match a text, best first.

    On a terminal a table; on a pipe rank, score and path, tab-separated, with control characters in names escaped."""
    from retrieval.engine import Engine

    if bool(words) == (batch is not None):
        raise typer.BadParameter("give a query, or --batch FILE, one of the two", param_hint="QUERY")
    if words and device == "cuda":
        raise typer.BadParameter("one query is faster without a GPU: use it with --batch", param_hint="--device")
    refuse_scorer(scorer, rerank)
    collection = collection_path(index)
    try:
        with reported_if_being_indexed(collection):
            engine = Engine.open(
                collection, model=model, scorer=scorer, rerank=rerank, candidates=candidates, device=device
            )
    except BeingIndexedError as error:
        note(str(error))
        raise typer.Exit(NOTHING_FOUND) from error
    if min_match and not engine.scorer.calibrated:
        raise CrosslookError("--min-match needs a calibrated scorer: leave out --no-rerank, or train one")
    if batch is not None:
        from cli.batch import answer_batch

        answer_batch(engine, batch, top, in_folder, min_match)
        _note_faults(engine)
        return
    results = engine.search(" ".join(words or ()), top, in_folder=in_folder, min_match=min_match)
    _note_results(engine, results, min_match)
    if not results:
        if results.best_match is None and not results.unreadable:
            note(_why_nothing(engine, in_folder))
        raise typer.Exit(NOTHING_FOUND)
    if null or paths:
        if not print_paths(results, "\0" if null else "\n"):
            raise typer.Exit(NOTHING_FOUND)
    elif as_json:
        print_json(results)
    elif on_terminal(sys.stdout):
        print_table(results)
        _note_how(engine, results, rerank)
    else:
        print_lines(results)


def _note_results(engine: Engine, results: Results, min_match: float) -> None:
    """Notes about the results, whatever form they are printed in."""
    _note_faults(engine)
    if results.truncated:
        note(f"the query is longer than {engine.encoder.max_tokens} tokens: the rest was ignored")
    if results.unreadable:
        note(f"left out: {plural(results.unreadable, 'candidate')} whose files cannot be read any more")
    if results.best_match is not None and results.best_match < max(DOUBTFUL, min_match):
        note(f"nothing matches well: the best match is {percent(results.best_match)}")


def _note_faults(engine: Engine) -> None:
    if engine.collection.fault is not None:
        note(f"{engine.collection.fault}: the newest undamaged manifest counts; `search index` mends it")
    if engine.collection.ann_fault is not None:
        note(f"slower than necessary, since all images are compared: {engine.collection.ann_fault}")
    if engine.device_fault is not None:
        note(f"slower than necessary, since the processor searches: {engine.device_fault}")


def _why_nothing(engine: Engine, in_folder: Path | None) -> str:
    if not len(engine.collection):
        return being_indexed(engine.collection.folder) or "the collection is empty"
    return f"nothing in {in_folder} is in the collection"


def _note_how(engine: Engine, results: Results, rerank: bool) -> None:
    milliseconds = sum(results.milliseconds.values())
    lacking = f": {engine.encoder.name} has no scorer" if rerank else ""
    how = "re-ranked" if engine.scorer.reranks else f"by similarity{lacking}"
    note(f"{len(results)} of {plural(len(engine.collection), 'image')} in {milliseconds:.0f} ms, {how}")
